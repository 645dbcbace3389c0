"""XGBoost model to trees or C sources, in a process of its own: ``python codegen.py MODEL FORMAT FOLDER [UNITS]``.

treelite and tl2cgen write to the process's standard error from C++ (about each other's versions, and about every
model they refuse). A process of its own keeps that out of the caller's terminal and lets it be quoted in an error.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

LEAF, NUMERICAL = 0, 1
LESS_THAN = 2


def main(model_path: str, model_format: str, folder: str, n_units: str = "") -> None:
    """Write facts about the model to ``folder/facts.json`` and its trees to ``folder/trees.npz``, or C sources.

    Sources are written, by tl2cgen, if it is said to how many units; nothing else then.
    """
    import treelite

    model = treelite.frontend.load_xgboost_model(model_path, format_choice=model_format)
    if n_units:
        import tl2cgen

        tl2cgen.generate_c_code(model, folder, params={"parallel_comp": int(n_units)})
        facts: dict[str, Any] = {"tl2cgen": tl2cgen.__version__}
    else:
        header = model.get_header_accessor()
        facts = {
            "n_targets": int(header.get_field("num_target")[0]),
            "n_classes": [int(n) for n in header.get_field("num_class")],
            "leaf_shape": [int(n) for n in header.get_field("leaf_vector_shape")],
            "averages": bool(header.get_field("average_tree_output")[0]),
            "link": str(header.get_field("postprocessor")),
            "n_trees": int(model.num_tree),
            "n_features": int(model.num_feature),
            "treelite": treelite.__version__,
        }
        np.savez(f"{folder}/trees.npz", **_trees(model))
    with open(f"{folder}/facts.json", "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(facts, file)


def _trees(model: Any) -> dict[str, Any]:
    """Trees as ``forest_tables.Forest`` keeps them."""
    trees = [model.get_tree_accessor(i) for i in range(model.num_tree)]
    of = {
        name: [np.array(tree.get_field(name)) for tree in trees]
        for name in ("cleft", "cright", "split_index", "threshold", "leaf_value", "default_left", "node_type", "cmp")
    }
    whole = {name: np.concatenate(parts) for name, parts in of.items()}
    kind, header = whole["node_type"], model.get_header_accessor()
    splits = kind != LEAF
    unusual = ""
    if (kind[splits] != NUMERICAL).any():
        unusual = "a split is categorical"
    elif (whole["cmp"][splits] != LESS_THAN).any():
        unusual = "a split compares otherwise than with <"
    elif whole["threshold"].dtype != np.float32 or whole["leaf_value"].dtype != np.float32:
        unusual = "thresholds or leaves are no float32 numbers"
    return {
        "first": np.cumsum([0, *map(len, of["cleft"])], dtype=np.int64),
        "left": whole["cleft"],
        "right": whole["cright"],
        "feature": whole["split_index"],
        "value": np.where(splits, whole["threshold"], whole["leaf_value"]),
        "missing_left": whole["default_left"].astype(bool),
        "unusual": unusual,
        "n_features": int(model.num_feature),
        "base_score": float(header.get_field("base_scores")[0]),
        "link": str(header.get_field("postprocessor")),
    }


if __name__ == "__main__":
    main(*sys.argv[1:5])
