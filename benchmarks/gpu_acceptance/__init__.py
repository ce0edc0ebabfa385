"""Does what was promised of TensorRT hold on a GPU: one command, one JSON and one page.

``python -m benchmarks.gpu_acceptance`` where Keras and the GPU are on one machine. Where they
are not, as with a Jetson: ``--prepare DIR`` where Keras is, copy the folder, ``--run DIR`` where
the GPU is, which takes the extra ``target`` alone. Where there is a GPU and no TensorRT, both
stages take ``--without tensorrt``. docs/results.md says what has run so far.
"""
