"""Synthetic measured steps for `fluidgate calibrate steps`, one in ten delayed as if by other work: steps.csv."""

import numpy as np

rng = np.random.default_rng(1)
decodes = rng.integers(1, 64, 300)
chunk = rng.integers(0, 2, 300) * rng.integers(1, 1900, 300)
before = rng.integers(0, 2000, 300) * (chunk > 0)
kv = decodes * rng.integers(100, 1200, 300) + chunk + before
pairs = chunk * before + chunk * (chunk + 1) // 2
sequences = decodes + (chunk > 0)
ms = 16.8 + 0.097 * (decodes + chunk) + 1.3e-4 * kv + 6e-6 * pairs + 0.03 * sequences
ms = ms * rng.normal(1, 0.03, 300) * np.where(rng.random(300) < 0.1, 4, 1)
rows = np.column_stack([decodes + chunk, kv, pairs, sequences, ms.round(3)])
np.savetxt("steps.csv", rows, "%.10g", ",", header="tokens,kv_tokens,attention_pairs,sequences,ms", comments="")
print(f"wrote {len(rows)} steps to steps.csv")
