import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank.factorizations import ans


def frequencies(contexts, alphabet, seed, power=4.0):
    """Of very different sizes, at least 1, each context's summing to 2^16."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(contexts, alphabet, generator=generator, dtype=torch.float64) ** power
    share = share / share.sum(dim=1, keepdim=True)
    table = 1 + (share * (2**16 - alphabet)).long()
    table[:, 0] += 2**16 - table.sum(dim=1)
    return table


def by_hand(stream, contexts, table):
    """One stream, a symbol at a time, in integers of Python; and what then is left."""
    data, found = bytes(stream.tolist()), []
    state, data = int.from_bytes(data[:4], "little"), data[4:]
    for context in contexts:
        row, place = table[context].tolist(), state % 2**16
        symbol = next(s for s in range(len(row)) if place < sum(row[: s + 1]))
        state = row[symbol] * (state // 2**16) + place - sum(row[:symbol])
        if state < 2**16:
            state, data = state * 2**16 + int.from_bytes(data[:2], "little"), data[2:]
        found.append(symbol)
    return found, state, data


@given(
    count=st.sampled_from([1, 2, 17, 2048, 2049, 5000]),
    contexts=st.integers(1, 5),
    alphabet=st.sampled_from([1, 2, 3, 31, 300]),
    seed=st.integers(0, 1000),
)
def test_every_symbol_comes_back(count, contexts, alphabet, seed):
    generator = torch.Generator().manual_seed(seed)
    table = frequencies(contexts, alphabet, seed)
    context = torch.randint(contexts, (count,), generator=generator)
    # Not drawn by their frequencies: rare ones too.
    symbols = torch.randint(alphabet, (count,), generator=generator)
    stream = ans.encode(symbols, context, table)
    assert stream.dtype == torch.uint8
    assert torch.equal(ans.decode(stream, context, table), symbols)


@given(
    count=st.sampled_from([10, 2048, 3000, 20000]),
    contexts=st.integers(1, 4),
    alphabet=st.sampled_from([1, 2, 31]),
    seed=st.integers(0, 100),
)
def test_it_takes_what_the_frequencies_say_and_some_bytes_for_each_stream(
    count, contexts, alphabet, seed
):
    generator = torch.Generator().manual_seed(seed)
    table = frequencies(contexts, alphabet, seed)
    context = torch.randint(contexts, (count,), generator=generator)
    symbols = torch.multinomial(table[context].double(), 1, generator=generator)[:, 0]
    information = float((16 - table[context, symbols].double().log2()).sum())
    stored = 8 * len(ans.encode(symbols, context, table))
    # Each stream ends with a state of 32 bits, of which at least 16 say nothing, and has whole
    # words of 16; quotients that are rounded down lose some thousandth.
    streams = -(-count // ans.LENGTH)
    assert information - 1 <= stored <= information * 1.001 + 48 * streams


def test_one_stream_is_that_of_the_definition():
    table, contexts = frequencies(2, 5, seed=0), [k % 2 for k in range(60)]
    symbols = [k * k % 5 for k in range(60)]
    stream = ans.encode(torch.tensor(symbols), torch.tensor(contexts), table)
    # The state from which encoding began, and nothing more.
    assert by_hand(stream, contexts, table) == (symbols, 2**16, b"")
