"""Puts this folder on the path, for `synchformer_cases` and `synchformer_clips`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
