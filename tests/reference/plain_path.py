"""The loop's twin: redis-py reads, the engine gets a list, redis-py stores; one thing after the other."""

from collections import Counter

import numpy as np

from etacore.pipeline.engine import Engine
from etacore.status import Status


class PlainPath:
    """Serves the vehicles of some keys, chunk after chunk."""

    def __init__(self, models, config, client, clock):
        self.engine = Engine(models, config, clock)
        self.config = config
        self.client = client

    def poll(self, keys):
        counts = Counter()
        for start in range(0, len(keys), self.config.chunk_size):
            counts += self._serve(keys[start : start + self.config.chunk_size])
        return counts

    def _serve(self, keys):
        batch = self.engine.process(keys, self.client.mget(keys), lambda more: self.client.mget(list(more)))
        for row in range(batch.n):
            if batch.status[row] == Status.EXPIRED and self.client.type(keys[row]) not in (b"none", b"string"):
                batch.status[row] = Status.WRONG_TYPE
        names = batch.texts("vehicle_id", np.arange(batch.n), self.config.keys.predictions.encode())
        with self.client.pipeline(transaction=False) as pipe:
            for part in batch.parts:
                for row in part.documents.rows().tolist():
                    pipe.set(names[row], part.documents[row], ex=self.config.predictions_ttl_seconds)
            pipe.execute()
        self.engine.commit(batch)
        unchanged = np.flatnonzero(batch.status == Status.UNCHANGED)
        gone = [row for row in unchanged.tolist() if not self.client.exists(names[row])]
        self.engine.fleet.forget_prediction(batch.vehicle_ix[gone])
        return Counter(batch.counts())
