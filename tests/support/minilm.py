"""What the reference implementation of all-MiniLM-L6-v2 says of some pairs of texts (see ``make_minilm_reference``)."""

import json
from pathlib import Path

REFERENCE = json.loads((Path(__file__).parent / "minilm_reference.json").read_text())
ROWS = REFERENCE["rows"]
