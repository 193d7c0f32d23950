"""Write tests/quant/torch_recorded.json: the numbers that torch's observers give.

Run it from the repository's root in an environment with torch 2.13 and numpy (qcc is not needed):

    PYTHONPATH=. python tools/record_torch_observers.py
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from tests.quant.torch_cases import CASES, torch_numbers

TARGET = Path(__file__).parents[1] / "tests" / "quant" / "torch_recorded.json"


def main() -> None:
    import torch

    warnings.simplefilter("ignore")
    numbers = {case.key: torch_numbers(case) for case in CASES}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in numbers.items()]
    head = f'  "torch": {json.dumps(torch.__version__)}'
    TARGET.write_text("{\n" + ",\n".join([head, *lines]) + "\n}\n")
    print(f"{len(numbers)} cases written to {TARGET}")


if __name__ == "__main__":
    main()
