"""The script that stoker's daemon starts: `python -I -u worker.py`, requests on fd 3, replies on fd 4.

vLLM spawns its engine processes, and a spawned process runs this file again as `__mp_main__`. That is the one place where
stoker can bind their lives to the parent's: otherwise they outlive a killed parent and keep the GPU's memory. (A folder with
a `__main__.py` would not be run again, hence a script.) Nothing else belongs here.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # -I leaves it out
    from stoker_worker.runner import main

    main()
else:
    import ctypes
    import signal

    PR_SET_PDEATHSIG = 1  # linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getpgid(os.getppid()) != os.getpgrp():  # the parent died before that, and another process group adopted this one
        os._exit(1)
