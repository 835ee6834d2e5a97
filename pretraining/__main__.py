"""`python -m pretraining`: draw the images, train FormNet on them, write its values.

Everything lies in `--workdir`; a run that was stopped goes on when it is started again.
"""

import argparse
import functools
from dataclasses import asdict
from pathlib import Path

from pretraining import export, pictures, run
from pretraining.pictures import Order
from pretraining.run import Log, Run

ORDER = Order(images=49_152, shapes_each=60, textures_each=30, seed=0)
RUN = Run(steps=3_800, batch=128, size=64, half=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pretraining", description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("pretraining-work"), help="for images and checkpoints")
    parser.add_argument("--out", type=Path, default=Path("app/backbones/data"), help="folder for the trained values")
    arguments = parser.parse_args()
    workdir: Path = arguments.workdir
    pictures.drawn(ORDER, workdir / "pictures", processes=RUN.processes)
    words = ORDER.vocabulary()
    state = run.train(
        functools.partial(pictures.drawn, ORDER, workdir / "pictures", processes=1),
        RUN,
        shapes=len(words.shapes),
        textures=len(words.textures),
        folder=workdir,
    )
    path = export.write(state, arguments.out)
    Log(workdir / "log.jsonl").write({"order": asdict(ORDER), "file": path.name, "bytes": path.stat().st_size})
    print(path)


if __name__ == "__main__":
    main()
