"""What a job, and each of its workers, need not wait for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import typer

from tests.batch import tables
from tests.conftest import ROOT
from zaphod.registry import Registry


def test_a_compiled_model_needs_no_training_library() -> None:
    """Scoring with a compiled model imports neither scikit-learn nor pandas, onnx or Ray: a second of every start."""
    code = (
        "import sys, batch.job, batch.__main__, zaphod.compiler.engine\n"
        "print([name for name in ('sklearn', 'pandas', 'scipy', 'onnx', 'ray') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_job_with_a_compiled_model_runs_without_pandas(tmp_path: Path, registry: Registry) -> None:
    """Pyarrow does not import it to see what it was handed, and finds it when it is asked for it."""
    tables.write_input(tmp_path / "input")
    code = (
        "import sys, pyarrow as pa\n"
        "from pathlib import Path\n"
        "from batch.__main__ import run\n"
        "settings = dict(zip(('model', 'registry', 'input', 'output'), sys.argv[2:]), in_process_s=60)\n"
        "code = run(config=Path(sys.argv[1]), dry_run=False, flags=settings)\n"
        "print('ended', code, 'pandas' in sys.modules, pa.array([1]).to_pandas().tolist())"
    )
    (tmp_path / "none.yaml").write_text("{}")
    flags = [str(tmp_path / "none.yaml"), "multiclass", registry.uri, str(tmp_path / "input"), str(tmp_path / "output")]

    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.stdout.splitlines()[-1:] == ["ended 0 False [1]"], done.stderr


def test_every_setting_is_a_flag() -> None:
    """A switch can be set and taken back; those of the log have both names."""
    from batch.__main__ import _command
    from batch.settings import BatchSettings
    from zaphod.monitoring.settings import LogSettings

    app = typer.Typer()
    app.command()(_command())
    options = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}

    log = {f"monitoring_{name}" for name in LogSettings.model_fields}
    assert {f"--{name.replace('_', '-')}" for name in {*BatchSettings.model_fields, *log} - {"monitoring"}} <= options
    assert {"--config", "--dry-run", "--incremental"} <= options
