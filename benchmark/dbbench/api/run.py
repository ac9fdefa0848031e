"""`dbbench.run`: the command `dbbench run` as a Python function."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbbench import plugins
from dbbench.api.results import RunResults, load_run
from dbbench.errors import UserError
from dbbench.planning.request import make_request
from dbbench.reports import write_report
from dbbench.running.executors.local import Local
from dbbench.running.options import RunOptions
from dbbench.running.run import execute
from dbbench.suites.suite import Suite
from dbbench.terminal import plain_console


def run(
    suite: str | Path | Suite | None = None,
    *,
    subjects: str | Iterable[str] | None = None,
    methods: str | type | Iterable[str | type] | None = None,
    seeds: Iterable[int] | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    on: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    jobs: int = 1,
    options: RunOptions | None = None,
    quiet: bool = False,
) -> RunResults:
    """Train, sample, score and rank methods x subjects x seeds; return what `load_run` returns.

    Complete results in the output folder are skipped: the same call continues after an
    interruption, and a later one can add subjects, methods or seeds.

        results = dbbench.run("mini", subjects=["dog", "teapot"], methods=["dreambooth"])
        results.leaderboard

    suite     a name (dbbench list suites), a TOML file or a `Suite`. Default: "paper" with a CUDA
              device, else "mini"
    subjects  names, or "all", "objects", "live". Default: the suite's
    methods   names (dbbench list methods), "my_method.py:MyMethod", or classes defined at the top
              of a module. Default: the suite's
    seeds     whole numbers. Default: the suite's
    data      the folder of the photographs, or a data set's name. Default: the suite's
    out       a folder, or an address such as "s3://bucket/name". Default: results/SUITE
    on        the suite that an experiment extends: "mini" or "paper"
    settings  changes to the suite: {"methods.dreambooth.steps": 400}
    device    "auto", "cpu", "cuda", "cuda:1" or "mps"
    jobs      parallel runs on each device, each in its own process; with more than one, a script
              must call `run` below `if __name__ == "__main__":`
    options   retries, interval, tracker and the rest of `RunOptions`
    quiet     show no progress on stderr

    Raises UserError for unknown names, and at the end if a run failed.
    """
    chosen = options or RunOptions(device)
    if options is not None and device != "auto":
        chosen = replace(options, device=device)
    if jobs < 1 or (jobs > 1 and chosen.together > 1):
        raise UserError(f"cannot run with jobs={jobs} and together={chosen.together}; set one to 1")
    request = make_request(
        suite,
        on=on,
        device=chosen.device,
        settings=[f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in (settings or {}).items()],
        subjects=subjects if subjects is None or isinstance(subjects, str) else ",".join(subjects),
        methods=None if methods is None else [_name(method) for method in _each(methods)],
        seeds=None if seeds is None else list(seeds),
        data=None if data is None else str(data),
        out=None if out is None else str(out),
    )
    outcome = execute(
        request,
        options=chosen,
        console=plain_console(stderr=True, quiet=quiet),
        publish=write_report,
        executor=Local(jobs),
    )
    if outcome.failures:
        raise UserError(
            f"{len(outcome.failures)} failed; call it again to repeat them: {outcome.failures[0]}"
        )
    return load_run(request.out)


def _each(methods: str | type | Iterable[str | type]) -> Sequence[str | type]:
    if isinstance(methods, str):
        return [name.strip() for name in methods.split(",")]
    return [methods] if isinstance(methods, type) else list(methods)


def _name(method: str | type) -> str:
    """Return the name of a method, or "file.py:Class" for a class that is not installed."""
    if isinstance(method, str):
        return method
    if not isinstance(method, type):
        raise UserError(
            f"{method!r} is no class; pass the class, and its settings as"
            f' settings={{"methods.NAME.steps": 400}}'
        )
    name = getattr(method, "name", None)
    if name in plugins.names("methods") and plugins.find("methods", name).load() is method:
        return str(name)
    # Other processes and later calls import it from its file, which must not run a program.
    own = method.__module__ != "__main__" and method.__qualname__ == method.__name__
    file = inspect.getsourcefile(method) if own else None
    if file is None or not Path(file).is_file():
        raise UserError(
            f"{method.__name__} is not defined at the top of a module; move it to its own file"
            f' and pass "that_file.py:{method.__name__}"'
        )
    return f"{file}:{method.__name__}"
