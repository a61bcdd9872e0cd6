"""Export a trained policy as a TensorFlow SavedModel, which runs without this package.

python -m trpo_mpi.export runs/Hopper-v4-default-s0 --saved-model hopper

    act = tf.saved_model.load("hopper").signatures["serving_default"]
    action = act(observation=tf.constant(observations))["action"]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from trpo_mpi.parallel import startup

if __name__ == "__main__":
    startup.prepare()  # before NumPy is imported

from trpo_mpi import tensorflow_setup
from trpo_mpi.command_line import parse
from trpo_mpi.errors import UsageError
from trpo_mpi.evaluation import load_model


@dataclass(frozen=True)
class Export:
    """Export a trained policy as a TensorFlow SavedModel, which runs without this package.

    It takes observations as the environment returns them, and returns the most probable actions as
    the environment takes them; the normaliser is included. After training with --time-feature, an
    observation ends with the elapsed fraction of the time limit. Prints its inputs and outputs.
    """

    run: Annotated[Positional[str], arg(metavar="DIR")]
    """A run directory, a model.zip or a checkpoint."""
    saved_model: str
    """Directory to write; it must not exist."""
    which: str = "latest"
    """Which model of a run directory: latest, best, or a checkpoint's iteration."""
    network: str | None = None
    """Your own network, if the policy was trained with one, as module:function. [default: none]"""


def main() -> int:
    """Export as the command line says; returns the exit code."""
    settings = parse(Export, "export")
    startup.check_alone()
    startup.unwind_on_signals()
    if not settings.saved_model:
        raise UsageError("--saved-model is empty; it must name a directory to write")
    path = Path(settings.saved_model)
    if path.exists():
        raise UsageError(f"--saved-model {path} is there already; name another")
    if not path.parent.is_dir():
        raise UsageError(f"--saved-model {path}: there is no directory {path.parent}")
    model = load_model(settings.run, settings.which, settings.network)
    tensorflow_setup.set_up("-1", 0)
    model.check_network(f"DIR {settings.run}")

    import tensorflow as tf

    from trpo_mpi import saved_model  # needs TensorFlow as `set_up` has made it

    try:
        inputs, outputs = saved_model.save(path, model)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", error)
        raise UsageError(f"--saved-model {path} can't be written: {reason}") from None
    print(f"{model.architecture.policy} of {model.env} is in {path}", flush=True)
    width = max(map(len, [*inputs, *outputs])) + 2
    for what, signature in (("input", inputs), ("output", outputs)):
        for name, spec in signature.items():
            shape = ", ".join(["N", *map(str, spec.shape[1:])])
            print(f"{what:8}{name:{width}}{f'({shape})':16}{spec.dtype.name}")
    if model.time_feature:
        print("the last number of an observation is the elapsed fraction of the time limit")
    if "state" in inputs:
        print("episodes begin with a state of zeros; what comes out goes into the next step")
    return 0


if __name__ == "__main__":
    startup.run(main)
