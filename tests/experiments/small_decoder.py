"""A small run of the language-model experiment, for its tests in this process and in others."""

from experiments.language_model.text import Corpus, corpus_from_files

SMALL = {
    "steps": 40, "batch_size": 8, "length": 16, "width": 32, "layers": 2, "heads": 2, "learning_rate": 0.02,
    "evaluations": 2, "validation_windows": 16, "sample_bytes": 8, "decode_batch": 2, "decode_context": 80,
    "save_every": 20,
}  # fmt: skip


def small_text() -> Corpus:
    """Sums, one a line: something that a small decoder finds structure in soon."""
    files = {
        f"{i}.txt": "".join(f"{i} plus {j} is {i + j}\n" for j in range(40)).encode() for i in range(30)
    }  # fmt: skip
    return corpus_from_files("sums", files)
