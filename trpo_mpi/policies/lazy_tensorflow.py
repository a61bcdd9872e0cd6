"""TensorFlow for modules that must not wait for its import.

`predict` and `play` run an MLP in NumPy: they import these modules, but never TensorFlow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf
else:

    class _Tensorflow:
        """The module, imported when one of its attributes is first used."""

        def __getattr__(self, name: str) -> Any:
            import tensorflow as tf

            return getattr(tf, name)

    tf = _Tensorflow()

__all__ = ["tf"]
