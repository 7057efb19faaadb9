"""Keep what runs say about photographs, for the chapter on attention maps: a JPEG of each as the networks saw it, and
for each run a folder with a JSON for each photograph. Only for photographs whose licence allows it, which must lie
beside them.

    python book/_tools/photographs.py --run heads RUN --run cram RUN IMAGE ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torchvision.io import write_jpeg

from cra_smra.explain import explain
from cra_smra.runs import RESULTS, write_json

KEPT = RESULTS / "groceries" / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", nargs=2, metavar=("NAME", "RUN"), required=True)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    options = parser.parse_args()
    for name, run in options.run:
        (KEPT / name).mkdir(parents=True, exist_ok=True)
        for image in options.images:
            found = explain(run, image)
            write_json(KEPT / name / f"{image.stem}.json", found.facts)
            write_jpeg(found.image, str(KEPT / f"{image.stem}.jpg"), quality=90)


if __name__ == "__main__":
    main()
