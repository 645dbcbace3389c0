"""Peers of the compiled forest, each on one thread: what else predicts an XGBoost model."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.fleet import model_path, xgboost_model
from etacore.models.forest import Forest
from etacore.models.predictors import Predictor
from etacore.schema import MAX_ETA_S, MIN_ETA_S

Matrix = NDArray[np.float32]
Predict = Callable[[Matrix], Matrix]
CLIP: Final = (float(MIN_ETA_S), float(MAX_ETA_S))


def _clipped(eta: Matrix) -> Matrix:
    clipped: Matrix = np.clip(eta, *CLIP)
    return clipped


@functools.cache
def branches() -> tuple[Path, str]:
    """The model compiled by tl2cgen as etacore compiles what its own kernel does not fit: path and hash."""
    from etacore.mlops.bundling.compile import compile_model

    built = compile_model(model_path(), backend="tl2cgen")
    path = Path(tempfile.mkdtemp(prefix="etacore-benchmarks-")) / "branches.so"
    path.write_bytes(built.library)
    return path, built.library_file.sha256


def xgboost() -> Predict:
    """``Booster.inplace_predict``, the fastest call that XGBoost offers for NumPy arrays."""
    booster = xgboost_model()
    return lambda X: _clipped(booster.inplace_predict(X))


def into_one_result(forest: Predictor) -> Predict:
    """A forest of ours that writes into the same array at each call, as the engine does."""
    out = np.empty(0, np.float32)
    low, high = CLIP

    def predict(X: Matrix) -> Matrix:
        nonlocal out
        if len(out) != len(X):
            out = np.empty(len(X), np.float32)
        forest.predict(X, out, low, high)
        return out

    return predict


def tl2cgen() -> Predict:
    """tl2cgen's code, called row by row from our own C."""
    return into_one_result(Forest.load(*branches(), 7))


def tl2cgen_predictor() -> Predict:
    """tl2cgen's code through its own Python package."""
    import tl2cgen as package

    predictor = package.Predictor(str(branches()[0]), nthread=1)
    return lambda X: _clipped(predictor.predict(package.DMatrix(X, dtype="float32")).reshape(-1))


def gtil() -> Predict:
    """treelite's own interpreter."""
    import treelite

    model = treelite.frontend.load_xgboost_model(model_path(), format_choice="json")
    return lambda X: _clipped(treelite.gtil.predict(model, X, nthread=1).reshape(-1))


def onnx_runtime() -> Predict:
    """ONNX Runtime's TreeEnsembleRegressor."""
    import onnx
    import onnxruntime as runtime

    learner = json.loads(model_path().read_bytes())["learner"]
    fields: dict[str, Any] = {name: [] for name in _ONNX_FIELDS}
    for t, tree in enumerate(learner["gradient_booster"]["model"]["trees"]):
        for node, left in enumerate(tree["left_children"]):
            is_leaf = left == -1
            row = {
                "nodes_treeids": t,
                "nodes_nodeids": node,
                "nodes_featureids": tree["split_indices"][node],
                "nodes_modes": "LEAF" if is_leaf else "BRANCH_LT",
                "nodes_values": 0.0 if is_leaf else tree["split_conditions"][node],
                "nodes_truenodeids": 0 if is_leaf else left,
                "nodes_falsenodeids": 0 if is_leaf else tree["right_children"][node],
                "nodes_missing_value_tracks_true": tree["default_left"][node],
            }
            if is_leaf:
                weight = tree["split_conditions"][node]
                row |= {"target_treeids": t, "target_nodeids": node, "target_ids": 0, "target_weights": weight}
            for name, value in row.items():
                fields[name].append(value)
    base = float(learner["learner_model_param"]["base_score"].strip("[]"))
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node(
        "TreeEnsembleRegressor", ["X"], ["y"], domain="ai.onnx.ml", n_targets=1, base_values=[base], **fields
    )
    graph = helper.make_graph(
        [node],
        "forest",
        [helper.make_tensor_value_info("X", kind, [None, int(learner["learner_model_param"]["num_feature"])])],
        [helper.make_tensor_value_info("y", kind, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda X: _clipped(session.run(["y"], {"X": X})[0].reshape(-1))


_ONNX_FIELDS: Final = (
    *("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes", "nodes_values"),
    *("nodes_truenodeids", "nodes_falsenodeids", "nodes_missing_value_tracks_true"),
    *("target_treeids", "target_nodeids", "target_ids", "target_weights"),
)

PEERS: Final[dict[str, Callable[[], Predict]]] = {
    "XGBoost inplace_predict": xgboost,
    "tl2cgen": tl2cgen,
    "tl2cgen Predictor": tl2cgen_predictor,
    "treelite GTIL": gtil,
    "ONNX Runtime": onnx_runtime,
}
