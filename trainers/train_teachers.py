"""The runs that a configuration learns from: prepared, tokenized and trained as its `teachers` says.

    hf-genrec teachers --config NAME

Each is an ordinary run, `<output_dir>/teachers/<name>`: its data are those of the configuration that learns from it,
all else is said by the configuration or method that it names and the options behind that. Finished ones are kept,
interrupted ones go on.
"""

import logging
import os
import shlex
import sys
from dataclasses import fields, replace

from hf_genrec.data.arguments import DataArguments
from hf_genrec.method import methods
from hf_genrec.trainers import prepare_data, tokenize_items, train
from hf_genrec.training.config import RunConfig, parse_command_line, parse_config

logger = logging.getLogger(__name__)

OWN_DATA_KEYS = ("max_history", "codes_path")  # what a model reads of the data, and not what the data are
SHOWN = ("report_to", "disable_tqdm", "use_cpu")  # how a training is shown and where it runs: as the learning run's


def main(config: RunConfig) -> None:
    """
    Train the teachers that are not trained yet, in the order they are named.

    Raises:
        ValueError: for a configuration without `teachers`, or one that cannot be used; names the teacher.
        RuntimeError: if it is run as one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError("teachers are trained one after the other by one process: leave torchrun and accelerate out")
    if not config.training.teachers:
        raise ValueError("the configuration names no teachers: go on with `hf-genrec tokenize` and `hf-genrec train`")
    for name, teacher in teacher_configs(config).items():
        folder = teacher.run.path  # building moves `output_dir` to the checkpoints
        logger.info("%s: the teacher %s", folder, name)
        prepare_data.main(teacher)
        tokenize_items.main(teacher)
        train.main(teacher)


def teacher_configs(config: RunConfig) -> dict[str, RunConfig]:
    """
    The configurations of the teachers by name.

    Raises:
        ValueError: if one cannot be used, or names teachers itself; names the teacher.
    """
    found: dict[str, RunConfig] = {}
    data_keys = {entry.name for entry in fields(DataArguments)} - set(OWN_DATA_KEYS)
    for name, line in (config.training.teachers or {}).items():
        try:
            base, *options = shlex.split(line)
            config_of, method = (None, ["--method", base]) if base in methods() else (base, [])
            places = {earlier: str(config.teachers_dir / earlier) for earlier in found}
            options = [places.get(option, option) for option in options]
            own = ["--output_dir", str(config.teachers_dir / name), "--resume_from_checkpoint", "last"]
            teacher = parse_config(config_of, [*method, *options, *own, *_shown(config)])
            if teacher.training.teachers:
                raise ValueError(f"{base} names teachers itself: name them here, before it")
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"teachers: {name}: {error}") from error
        theirs = {key: getattr(teacher.data, key) for key in OWN_DATA_KEYS}
        given = (teacher.given - data_keys) | (config.given & data_keys)
        found[name] = replace(teacher, data=replace(config.data, **theirs), given=given)
    return found


def _shown(config: RunConfig) -> list[str]:
    """The options of a teacher that follow the run which learns from it."""
    words: list[str] = []
    for key in SHOWN:
        if key in config.given:
            value = getattr(config.training, key)
            words += [f"--{key}", *(map(str, value or ["none"]) if isinstance(value, list) else [str(value)])]
    return words


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
