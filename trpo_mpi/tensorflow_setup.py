"""Imports TensorFlow with a rank's threads and devices, and without its start-up notes."""

import faulthandler
import os
import sys
from types import ModuleType
from typing import cast

from trpo_mpi.errors import UsageError
from trpo_mpi.parallel import startup


def set_up(gpu: str, local_rank: int, drawn: bool = False) -> list[str]:
    """Import TensorFlow; if something else has run it already, it stays as it is, with a note.

    Args:
        gpu: `-1` hides all GPUs, `auto` gives each rank of a node its own, a number names one.
        local_rank: this rank's number on its node.
        drawn: whether this process draws by OpenGL: then it must have drawn before this call.

    Returns the names of the visible GPUs. Raises `UsageError` if there is no such GPU.
    """
    imported = "tensorflow" in sys.modules
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if drawn:
        # OpenGL brings an LLVM of its own (Mesa's), which clashes with TensorFlow's: it must be
        # loaded first, and TensorFlow must prefer its own, or the process crashes.
        sys.setdlopenflags(os.RTLD_NOW | getattr(os, "RTLD_DEEPBIND", 0))
    # TensorFlow would load Keras, and Keras pandas and Matplotlib: a third of the import's time and
    # 90 MB per rank, for what only a user-defined network uses. That loads Keras when needed.
    modules = cast(dict[str, ModuleType | None], sys.modules)
    keras = modules.setdefault("keras.src", None)  # None: an ImportError, which TensorFlow expects
    sys.stderr.flush()
    # C++ prints four lines of start-up notes per process before any log level is read.
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    # What Python says meanwhile is seen: that Ctrl-C has ended it, or where TensorFlow crashed.
    shown, sys.stderr = sys.stderr, os.fdopen(os.dup(kept), "w", buffering=1)
    crashes = faulthandler.is_enabled()
    faulthandler.enable(sys.stderr)
    try:
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        for kind in ("intra", "inter"):
            threads = int(os.environ.get(f"TF_NUM_{kind.upper()}OP_THREADS") or "0")
            getattr(tf.config.threading, f"set_{kind}_op_parallelism_threads")(threads)
        chosen = choose_gpu(gpu, local_rank, [device.name for device in devices])
        visible = [device for device in devices if device.name in chosen]
        tf.config.set_visible_devices(visible, "GPU")
        for device in visible:
            tf.config.experimental.set_memory_growth(device, True)
        # TF32's products of 10 bits are far from the CPU's, and too coarse for conjugate gradient.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.constant(0.0)
    except RuntimeError:  # once it has run, its threads and devices can't be changed
        if not imported:
            raise
        chosen = []
        if startup.launched().rank == 0:
            print("note: TensorFlow was in use; its threads stay as they are", file=sys.stderr)
    finally:
        if keras is None:
            del sys.modules["keras.src"]
        os.dup2(kept, 2)
        faulthandler.disable()
        sys.stderr.close()
        sys.stderr = shown
        if crashes:
            faulthandler.enable()
        os.close(kept)
        os.close(null)
    return chosen


def choose_gpu(gpu: str, local_rank: int, devices: list[str]) -> list[str]:
    """Which of a node's GPUs a rank uses; see `set_up`."""
    if gpu == "-1":
        return []
    if not devices:
        raise UsageError(f"--gpu {gpu}: TensorFlow sees no GPU here; leave it at -1 for the CPU")
    if gpu == "auto":
        return [devices[local_rank % len(devices)]]
    if int(gpu) >= len(devices):
        raise UsageError(f"--gpu {gpu}: there are devices 0 to {len(devices) - 1}, -1 and auto")
    return [devices[int(gpu)]]
