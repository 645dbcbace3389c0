"""Redis' wire format in plain Python: commands of many keys, the reply to MGET, the replies to many SETs.

Each reader gets all bytes there are and starts from the beginning: None while something is still to come.
"""

from etacore._kernels.resp import ProtocolError

MAX_LINE = 4096
MAX_VALUE_BYTES = 512 * 2**20


def pack_keys(command, keys):
    words = [command, *keys]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def set_commands(items, ttl_s=300):
    """Documents by key, each stored by a command of its own."""
    return b"".join(pack_keys(b"SET", [key, value, b"EX", b"%d" % ttl_s]) for key, value in items)


def msetex_commands(items, group, ttl_s=300):
    """The same documents, many to a command."""
    packed = b""
    for start in range(0, len(items), group):
        some = items[start : start + group]
        words = [word for item in some for word in item]
        packed += pack_keys(b"MSETEX", [b"%d" % len(some), *words, b"EX", b"%d" % ttl_s])
    return packed


def mget_reply(values, *, resp3=False):
    """What a server sends."""
    nil = b"_\r\n" if resp3 else b"$-1\r\n"
    words = [nil if value is None else b"$%d\r\n%b\r\n" % (len(value), value) for value in values]
    return b"*%d\r\n" % len(values) + b"".join(words)


def line(data, start):
    """A line without its end, None if it is not whole yet."""
    end = data.find(b"\r", start, start + MAX_LINE)
    if end < 0:
        if len(data) - start >= MAX_LINE:
            raise ProtocolError("a long line")
        return None
    if end + 1 == len(data):
        return None
    if data[end + 1 : end + 2] != b"\n":
        raise ProtocolError("a line without an end")
    return data[start:end]


def number(text):
    """What stands after the type of a line."""
    digits = text[1:]
    if digits == b"-1":
        return -1
    if not 1 <= len(digits) <= 11 or not all(48 <= byte <= 57 for byte in digits):
        raise ProtocolError("no number")
    return int(digits)


def read_values(data, n):
    """The values of an MGET of n keys, or the text of an error; None if more is to come."""
    first = line(data, 0)
    if first is None:
        return None
    at = len(first) + 2
    if first.startswith(b"-"):
        found = first[1:]
    else:
        if not first.startswith(b"*") or number(first) != n:
            raise ProtocolError("no array of so many")
        found = []
        for _ in range(n):
            head = line(data, at)
            if head is None:
                return None
            at += len(head) + 2
            if head == b"_" or head.startswith(b"-") or (head.startswith(b"$") and number(head) < 0):
                found.append(None)
                continue
            if not head.startswith(b"$") or number(head) > MAX_VALUE_BYTES:
                raise ProtocolError("no value")
            end = at + number(head)
            if len(data) < end + 2:
                return None
            if data[end : end + 2] != b"\r\n":
                raise ProtocolError("a value without an end")
            found.append(data[at:end])
            at = end + 2
    if at != len(data):
        raise ProtocolError("more than one reply")
    return found


def read_acknowledgements(data, n):
    """The errors among n replies, each with its position; None if more is to come."""
    at, errors = 0, []
    for ix in range(n):
        text = line(data, at)
        if text is None:
            return None
        if text.startswith(b"-"):
            errors.append((ix, text[1:]))
        elif text not in (b"+OK", b":1"):
            raise ProtocolError("neither done nor an error")
        at += len(text) + 2
    if at != len(data):
        raise ProtocolError("more replies than commands")
    return errors
