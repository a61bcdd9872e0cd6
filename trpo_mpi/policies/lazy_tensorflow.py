"""TensorFlow for modules that must not wait for it.

`predict` and `play` act with an MLP in NumPy: they import these modules, and never TensorFlow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf
else:

    class _Tensorflow:
        """The module, imported when something of it is first used."""

        def __getattr__(self, name: str) -> Any:
            import tensorflow as tf

            return getattr(tf, name)

    tf = _Tensorflow()

__all__ = ["tf"]
