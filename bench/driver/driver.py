"""The script that `stoker bench` starts for each way of driving vLLM: `python -I -u driver.py WORKER_FOLDER JOB`.

vLLM's spawned processes run it again as `__mp_main__`: importing the worker's script ties their lives to their parent's, as it
does for the worker, and their stacks are sampled too if that is asked for.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path += [str(Path(__file__).resolve().parent), sys.argv[1]]  # -I leaves them out
    from stoker_bench.main import main

    main(sys.argv[2])
else:
    import worker  # noqa: F401
    from stoker_bench import stacks

    stacks.sample_if_wanted("engine")
