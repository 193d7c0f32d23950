"""Object code that C and C++ programs link: a form of output beside the ``.qcc`` artifact.

:mod:`description` says what the interface of a model consists of, :mod:`module` writes its
functions as LLVM text around the model's own, :mod:`object_code` compiles both into one relocatable
object with the weights in ``.rodata``.  :mod:`header` and :mod:`example` are the C text beside it,
:mod:`weights_file` is the form of weights that lie in a file of their own, and :mod:`archive`
makes an ``.a`` of an object.
"""
