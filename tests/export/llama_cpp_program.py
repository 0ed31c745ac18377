"""What llama.cpp makes of a GGUF file; a program that knows nothing of this library.

Given folders in a file of JSON, a text and the first tokens of one, it writes the ids of the text,
the outputs for them, and how llama.cpp goes on with the tokens.
"""

import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np


def main(path):
    asked = json.loads(Path(path).read_text())
    for folder in asked["folders"]:
        file = str(Path(folder, "model.gguf"))
        model = llama_cpp.Llama(file, n_ctx=256, logits_all=True, verbose=False, n_threads=1)
        ids = model.tokenize(asked["text"].encode(), add_bos=True)
        model.eval(ids)
        outputs = np.array(model.scores[: len(ids)])
        model.reset()
        greedy = list(asked["start"])
        model.eval(greedy)
        for _ in range(asked["count"]):
            greedy.append(int(np.argmax(model.scores[model.n_tokens - 1])))
            model.eval(greedy[-1:])
        np.savez(Path(folder, "llama.npz"), ids=ids, outputs=outputs, greedy=greedy)
    assert not any(name.startswith("lowrank") for name in sys.modules)


if __name__ == "__main__":
    main(sys.argv[1])
