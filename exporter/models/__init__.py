"""The model zoo: ResNets and ResNeXts built from stock Keras layers."""
