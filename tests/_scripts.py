"""Scripts in processes that are forked from one which has imported what most of them wait for."""

from __future__ import annotations

import atexit
import json
import os
import runpy
import subprocess
import sys
import traceback
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = "torch._dynamo, flops_fit.train.trainer, matplotlib.pyplot, scipy.optimize, scipy.stats"


@dataclass
class Scripts:
    """Runs them one after the other, as ``python -W error`` would; what they print goes to a folder."""

    folder: Path
    server: Any = None

    def start(self, *words: object) -> int:
        """A process for ``[script, *arguments]`` or ``["-c", code, *arguments]``; its id."""
        if self.server is None:
            code = f"import {IMPORTS}; from tests._scripts import serve; serve()"
            self.server = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # a fork takes no threads along
            )
        order = [str(self.folder), *map(str, words)]
        print(json.dumps(order), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def wait(self) -> subprocess.CompletedProcess[str]:
        code = int(self.server.stdout.readline())
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess([], code, out, err)

    def run(self, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        with_cwd = [] if cwd is None else ["-C", cwd]
        self.start(*with_cwd, *words)
        return self.wait()

    def close(self) -> None:
        if self.server is not None:
            self.server.communicate()


def serve() -> None:
    sys.path.remove("")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(_run(*json.loads(line)))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(folder: str, *words: str) -> int:
    """What the interpreter does from its start to its end."""
    os.setsid()
    for number, path in enumerate((os.devnull, Path(folder, "out"), Path(folder, "err"))):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin = os.fdopen(0)
    if words[0] == "-C":
        os.chdir(words[1])
        words = words[2:]
    code = 0
    try:
        if words[0] == "-c":
            sys.argv, sys.path[:0] = ["-c", *words[2:]], [""]
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), vars(main))
        else:
            sys.argv, sys.path[:0] = [*words], [str(Path(words[0]).parent)]
            runpy.run_path(words[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code
