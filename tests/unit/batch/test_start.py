"""What a job, and each of its workers, need not wait for."""

from __future__ import annotations

import subprocess
import sys

import typer

from tests.conftest import ROOT


def test_a_compiled_model_needs_no_training_library() -> None:
    """Scoring with a compiled model imports neither scikit-learn nor pandas, onnx or Ray: a second of every start."""
    code = (
        "import sys, batch.job, batch.__main__, zaphod.compiler.engine\n"
        "print([name for name in ('sklearn', 'pandas', 'scipy', 'onnx', 'ray') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_setting_is_a_flag() -> None:
    """A switch can be set and taken back."""
    from batch.__main__ import _command
    from batch.settings import BatchSettings

    app = typer.Typer()
    app.command()(_command())
    options = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}

    assert {f"--{name.replace('_', '-')}" for name in BatchSettings.model_fields} <= options
    assert {"--config", "--dry-run", "--incremental"} <= options
