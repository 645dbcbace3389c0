"""XGBoost model to C sources, in a process of its own: ``python codegen.py MODEL FORMAT FOLDER UNITS``.

treelite and tl2cgen write to the process's standard error from C++ (about each other's versions, and about every
model they refuse). A process of its own keeps that out of the caller's terminal and lets it be quoted in an error.
"""

from __future__ import annotations

import json
import sys


def main(model_path: str, model_format: str, folder: str, n_units: str) -> None:
    """Write the sources to `folder` and facts about the model, as JSON, to ``folder/facts.json``."""
    import tl2cgen
    import treelite

    model = treelite.frontend.load_xgboost_model(model_path, format_choice=model_format)
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
        "tl2cgen": tl2cgen.__version__,
    }
    tl2cgen.generate_c_code(model, folder, params={"parallel_comp": int(n_units)})
    with open(f"{folder}/facts.json", "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(facts, file)


if __name__ == "__main__":
    main(*sys.argv[1:5])
