import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from etacore._kernels.index import StringIndex

KEYS = st.binary(max_size=20) | st.integers(0, 300).map(lambda i: f"BUS-{i}".encode())


class IndexMachine(RuleBasedStateMachine):
    """Any sequence of operations leaves a `StringIndex` equal to a dict, order included."""

    def __init__(self):
        super().__init__()
        self.index = StringIndex()
        self.model = {}

    @rule(pairs=st.dictionaries(KEYS, st.integers(-(2**31), 2**31 - 1), max_size=60))
    def put(self, pairs):
        for key, value in pairs.items():
            self.index.set(key, value)
            self.model[key] = value

    @rule(keys=st.lists(KEYS, max_size=20))
    def get(self, keys):
        assert [self.index.get(key) for key in keys] == [self.model.get(key, -1) for key in keys]

    @rule(data=st.data())
    def retain(self, data):
        n = len(self.model)
        keep = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
        self.index.retain(np.array(keep, np.uint8))
        self.model = {key: value for (key, value), kept in zip(self.model.items(), keep, strict=True) if kept}

    @rule()
    def clear(self):
        self.index.clear()
        self.model.clear()

    @invariant()
    def same_entries(self):
        assert self.index.items() == list(self.model.items())
        assert len(self.index) == len(self.model)
        assert all(self.index.get(key) == value for key, value in self.model.items())


TestIndex = IndexMachine.TestCase
