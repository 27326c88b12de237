"""`hf-genrec plan`: memory per device and time per epoch of a training, before it is started."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

EXTRA = "train"

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Option(help="YAML file, or a shipped name (`hf-genrec configs` lists them).")
    ] = None,
    gpus: Annotated[int, typer.Option(help="Devices that train together.", min=1)] = 1,
    gpu: Annotated[str | None, typer.Option(help="Kind of GPU: a100, a10, h100, h200, l4, l40s, t4 or v100.")] = None,
    flops: Annotated[float | None, typer.Option(help="Teraflops a second, in place of the kind's.")] = None,
    memory: Annotated[float | None, typer.Option(help="GB of memory, in place of the kind's.")] = None,
    bandwidth: Annotated[float | None, typer.Option(help="GB a second of memory, in place of the kind's.")] = None,
) -> None:
    """
    Memory per device and time per epoch, from a step that is counted here on a processor. Without --gpu for processors
    like this one, whose speed is measured. The data must be prepared, and tokenized where the method needs it.
    """
    from hf_genrec.terminal import quiet
    from hf_genrec.training.config import check_keys

    settings = check_keys(config, context.args)
    quiet()
    from hf_genrec.data.prepared import require_files
    from hf_genrec.training.config import parse_config
    from hf_genrec.training.plan import GPUS, TERA, make_plan
    from hf_genrec.training.run_folder import RunFolder

    device = None
    if gpu is not None:
        if gpu not in GPUS:
            raise ValueError(f"--gpu {gpu}: it is none of {', '.join(sorted(GPUS))}; name the nearest, with --flops")
        device = GPUS[gpu]
        if flops is not None:
            device = replace(device, flops=flops * TERA, half=flops * TERA)
        if memory is not None:
            device = replace(device, memory=memory * 1e9)
        if bandwidth is not None:
            device = replace(device, bandwidth=bandwidth * 1e9)
    elif not flops == memory == bandwidth == None:  # noqa: E711
        raise ValueError("--flops, --memory and --bandwidth change those of a GPU: name one by --gpu")
    for name, value in (("flops", flops), ("memory", memory), ("bandwidth", bandwidth)):
        if value is not None and not value > 0:
            raise ValueError(f"--{name} {value}: give a number above 0")
    if isinstance(settings.get("output_dir"), str):
        require_files(RunFolder(Path(settings["output_dir"])).data)
    typer.echo(described(make_plan(parse_config(config, [*context.args, "--use_cpu", "true"]), gpus, device)))


def described(plan) -> str:
    """A plan as text."""
    from hf_genrec.training.plan import GIB, SHARE_OF_BANDWIDTH, SHARE_OF_FLOPS

    device = plan.device
    lines = [
        f"{plan.weights[0]:,} of {plan.weights[1]:,} weights are trained; {plan.rows:,} rows, {plan.steps:,} steps an "
        f"epoch on {plan.processes} x {device.name}, {plan.flops_per_step / 1e9:,.1f} GFLOP a step and device",
        "",
        "memory per device, GiB",
    ]
    for way in plan.memory:
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in plan.memory[way].items())
        fits = "" if plan.peak(way) <= 0.9 * device.memory else f"  MORE THAN {0.9 * device.memory / GIB:.0f}"
        lines.append(f"  {way:20s} {plan.peak(way) / GIB:8.2f}   {parts}{fits}")
    lines += ["", "time of a step, milliseconds"]
    lines += [f"  {name:26s} {1000 * seconds:10.2f}" for name, seconds in plan.step_seconds.items()]
    epoch = plan.epoch_seconds
    lines += ["", f"an epoch takes {spoken(epoch)}, {plan.epochs:g} epochs {spoken(epoch * plan.epochs)}"]
    if plan.evaluation:
        lines.append("Evaluations come on top.")
    if device.name != "cpu":
        lines.append(
            f"Assumed: {SHARE_OF_FLOPS:.0%} of the data sheet's operations, {SHARE_OF_BANDWIDTH:.0%} of its bandwidth."
        )
    return "\n".join(lines)


def spoken(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
