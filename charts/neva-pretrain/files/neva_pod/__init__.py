"""What runs in the pods of a NeVa pretraining release: preflight, prepare and the monitor.

Python 3.10 and its standard library, the image's; PyYAML and Pillow of the NeMo image are used where they are there.
``neva-values`` and ``neva-monitor`` import the same package.
"""
