"""Speaks the protocol of peer_worker.py with numpy alone; the engine's name says how it behaves."""

import json
import os
import signal
import sys

import numpy as np

engine, trains = "", 0
for line in sys.stdin:
    request = json.loads(line)
    answer: dict = {}
    if request["do"] == "load":
        engine = request["engine"]
        answer = {"bytes": 10, "notes": []}
        if engine == "refuses":
            answer = {"error": "ValueError: this net is too strange"}
        if engine == "prints":
            print("welcome", flush=True)
    elif request["do"] == "outputs":
        with np.load(request["inputs"]) as stored:
            sample = stored["sample"]
        noise = {"rough": 0.1, "exact": 0.001, "broken": np.nan}.get(engine, 0.01)
        np.save(request["to"], sample + noise * np.random.default_rng(0).standard_normal(sample.shape))
    else:
        trains += 1
        if engine == "killed" and trains == 3:
            sys.stderr.write("out of memory\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if engine == "sleeps":
            signal.pause()
        answer = {"ms": {"rough": 1.0, "eager": 8.0}.get(engine, 2.0) + 0.01 * (trains % 3), "idle_ms": 0.5}
    print(json.dumps(answer), flush=True)
