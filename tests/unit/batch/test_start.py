"""What a job, and each of its workers, need not wait for."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def test_a_compiled_model_needs_no_training_library() -> None:
    """Scoring with a compiled model imports neither scikit-learn nor pandas, onnx or Ray: a second of every start."""
    code = (
        "import sys, batch.job, batch.__main__, zaphod.compiler.engine\n"
        "print([name for name in ('sklearn', 'pandas', 'scipy', 'onnx', 'ray') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("[]\n", "")
