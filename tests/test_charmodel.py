"""Character models: vocabulary, loss, samples, files, and training that resumes to the same bytes."""

import ctypes
import dataclasses
import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clstm
from clstm import blas, inspection
from clstm.charmodel import CharacterModel, Vocabulary, _choose, read_training
from clstm.commands.ngrams import CONCENTRATION, ngram_bits
from clstm.module import read_extra
from clstm.trainer import Settings, Trainer

TEXT = "to be, or not to be: that is the question.\n" * 30
SMALL = Settings(layers=2, hidden=12, embedding=6, dropout=0.3, epochs=3, batch_size=4, sequence_length=20)


def small_model(text=TEXT, **sizes):
    return CharacterModel.new(Vocabulary.of(text), seed=1, **({"hidden_size": 10, "embedding_size": 5} | sizes))


def run(trainer, until=None):
    """Train to the end, or for so many steps in all."""
    while not trainer.done and trainer.steps != until:
        trainer.step(trainer.learning_rate())
        if trainer.at_epoch_end:
            trainer.end_epoch()
    return trainer


# ---- vocabulary ----


@given(st.text(min_size=1))
def test_encoding_and_decoding_give_the_text_back(text):
    vocabulary = Vocabulary.of(text)
    assert "".join(vocabulary.characters[i] for i in vocabulary.encode(text)) == text
    assert len(vocabulary) == len(set(text))


@pytest.mark.parametrize("unknown", ["0", "c", "\U0001f600"])  # before, between and after the known ones
def test_an_unknown_character_is_named_with_its_position(unknown):
    with pytest.raises(ValueError, match=f"the character {unknown!r} at position 2 is not among the 2"):
        Vocabulary("bd").encode(f"bd{unknown}b")


@pytest.mark.parametrize("characters", ["", "ba", "aa"])
def test_a_vocabulary_has_each_character_once_in_order(characters):
    with pytest.raises(ValueError, match="each character once, in order"):
        Vocabulary(characters)


# ---- loss and samples ----


def test_bits_per_character_is_the_mean_negative_log2_of_the_probabilities():
    model = small_model()
    ids = model.vocabulary.encode(TEXT)[:300]
    logits = model.network(ids[:-1, None])[0][:, 0].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log2(probabilities[np.arange(299), ids[1:]]).mean()
    assert model.bits_per_character(ids, chunk=7) == pytest.approx(expected, rel=1e-6)


def test_pieces_side_by_side_each_start_from_a_zero_state():
    model = small_model()
    ids = model.vocabulary.encode(TEXT)[:1000]
    apart = [model.bits_per_character(half) for half in (ids[:500], ids[500:])]
    assert model.bits_per_character(ids) == pytest.approx(np.mean(apart), rel=1e-6)


def test_samples_follow_the_softmax_of_logits_by_temperature():
    logits, rng = np.array([0.0, 1.0, -1.0]), np.random.default_rng(0)
    counts = np.bincount([_choose(logits, 0.5, rng) for _ in range(20_000)])
    expected = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum()
    np.testing.assert_allclose(counts / 20_000, expected, atol=0.01)


def test_temperature_0_takes_the_likeliest_characters():
    model = small_model()
    text = "to be"
    for character in islice(model.sample(text, temperature=0), 30):
        logits = model.network(model.vocabulary.encode(text)[:, None])[0][-1, 0]
        assert character == model.vocabulary.characters[int(np.argmax(logits))]
        text += character


def test_the_lstm_may_be_a_variant():
    options = {"proj_size": 5, "learn_initial_state": True, "seed": 1}
    parts = [clstm.Embedding(3, 4, seed=0), clstm.LSTM(4, 8, **options), clstm.Linear(5, 3, seed=2)]
    model = CharacterModel(Vocabulary("abc"), clstm.Sequential(*parts))
    parts[1].h_0_l0[...] = 3 * np.random.default_rng(0).standard_normal(5)
    text = "ab"
    for character in islice(model.sample(text, temperature=0), 10):
        assert character == "abc"[int(np.argmax(model.network(model.vocabulary.encode(text)[:, None])[0][-1, 0]))]
        text += character
    with pytest.raises(ValueError, match="network has in_features 8, but 5 is expected"):
        CharacterModel(Vocabulary("abc"), clstm.Sequential(*parts[:2], clstm.Linear(8, 3)))


def test_a_seed_reproduces_a_sample():
    def sample(seed):
        return "".join(islice(small_model().sample("to", seed=seed), 50))

    assert sample(3) == sample(3) != sample(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "€"}, "the character '€' at position 0"),
        ({"prompt": "to", "temperature": -1}, "temperature is -1"),
        ({"prompt": "to", "temperature": math.nan}, "temperature is nan"),
    ],
)
def test_sample_refuses_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_model().sample(**arguments)


# ---- files ----


def test_a_saved_model_gives_the_same_bytes_and_keeps_its_notes(tmp_path):
    model, path = small_model("añ€😀\n" * 9), tmp_path / "model.safetensors"
    model.save(path, {"epochs": 3})
    loaded = CharacterModel.load(path)
    ids = model.vocabulary.encode("ñ😀a")[:, None]
    assert loaded.network(ids)[0].tobytes() == model.network(ids)[0].tobytes()
    assert loaded.vocabulary.characters == model.vocabulary.characters
    assert read_training(path) == {"epochs": 3}


def parts(V=4, E=3, H=5, **lstm):
    return clstm.Embedding(V, E), clstm.LSTM(E, H, **lstm), clstm.Linear(H, V)


@pytest.mark.parametrize(
    ("network", "notes", "message"),
    [
        (clstm.Linear(2, 2), {}, "holds a Linear, not a Sequential"),
        (clstm.Sequential(*parts()), {}, "is not a character model"),
        (clstm.Sequential(*parts()), {"task": "character model"}, "characters is ''"),
        (clstm.Sequential(*parts()), {"task": "character model", "vocabulary": "abc"}, "num_embeddings 4, but 3 is"),
        (clstm.Sequential(*parts()[:2]), {"task": "character model", "vocabulary": "abcd"}, "Embedding, LSTM, Linear"),
        (
            clstm.Sequential(*parts(batch_first=True)),
            {"task": "character model", "vocabulary": "abcd"},
            "batch_first True",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, network, notes, message):
    path = tmp_path / "other.safetensors"
    network.save(path, metadata=notes)
    with pytest.raises(ValueError, match=message):
        CharacterModel.load(path)


@pytest.mark.parametrize("notes", ["[1]", "{", "[" * 100_000])
def test_damaged_notes_are_refused(tmp_path, notes):
    path = tmp_path / "model.safetensors"
    small_model().network.save(path, metadata={"task": "character model", "vocabulary": "ab", "training": notes})
    with pytest.raises(ValueError, match="notes on the training that are not"):
        read_training(path)


# ---- training ----


def test_training_learns_a_text_that_repeats():
    settings = Settings(hidden=32, embedding=8, batch_size=4, sequence_length=40, epochs=15, lr=0.02)
    trainer = run(Trainer(TEXT * 3, settings))
    assert trainer.held_out_bits[0] > 1.5
    assert trainer.held_out_bits[-1] < 0.2


def test_an_epoch_reads_each_piece_of_the_training_text_once(monkeypatch):
    trainer = Trainer(TEXT, SMALL)
    forward, chunks = trainer.model.network.forward, []
    monkeypatch.setattr(
        trainer.model.network, "forward", lambda x, state: chunks.append((x, state)) or forward(x, state)
    )
    run(trainer, until=2 * trainer.steps_per_epoch)
    per_epoch = [chunks[: trainer.steps_per_epoch], chunks[trainer.steps_per_epoch :]]
    length = len(trainer.training_text) // 4
    for epoch in per_epoch:
        read = np.concatenate([x for x, _ in epoch])
        expected = trainer.training_text[: 4 * length].reshape(4, length).T[:-1]
        np.testing.assert_array_equal(read, expected)
        assert [state is None for _, state in epoch] == [True] + [False] * (len(epoch) - 1)


@pytest.mark.parametrize("cut", [0, 1, 7, "an epoch", "all"])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, cut):
    whole = run(Trainer(TEXT, SMALL))
    steps = {"an epoch": whole.steps_per_epoch, "all": whole.total_steps}.get(cut, cut)
    run(Trainer(TEXT, SMALL), until=steps).save_checkpoint(tmp_path / "checkpoint")
    resumed = Trainer(TEXT, SMALL)
    resumed.load_checkpoint(tmp_path / "checkpoint")
    assert resumed.steps == steps
    run(resumed)
    for name, trainer in {"whole": whole, "resumed": resumed}.items():
        trainer.save_checkpoint(tmp_path / name)  # a model file, and all of the run's state
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "resumed").read_bytes()


def test_a_checkpoint_is_a_model_file(tmp_path):
    trainer = run(Trainer(TEXT, SMALL), until=5)
    trainer.save_checkpoint(tmp_path / "checkpoint")
    model = CharacterModel.load(tmp_path / "checkpoint")
    assert (
        model.network(np.zeros((3, 1), int))[0].tobytes() == trainer.model.network(np.zeros((3, 1), int))[0].tobytes()
    )


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (TEXT, {"hidden": 13}, "hidden 12 there, 13 here"),
        (TEXT, {"lr": 0.5, "seed": 9}, "lr 0.006 there, 0.5 here; seed 0 there, 9 here"),
        (TEXT.replace("that", "what"), {}, "another text"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, text, changes, message):
    run(Trainer(TEXT, SMALL), until=2).save_checkpoint(tmp_path / "checkpoint")
    other = Trainer(text, dataclasses.replace(SMALL, **changes))
    before = other.model.network.state_dict()
    with pytest.raises(ValueError, match=message):
        other.load_checkpoint(tmp_path / "checkpoint")
    assert all((before[name] == array).all() for name, array in other.model.network.state_dict().items())


def test_a_finished_model_is_not_taken_for_a_checkpoint(tmp_path):
    trainer = Trainer(TEXT, SMALL)
    trainer.save_model(tmp_path / "model")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        trainer.load_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("missing", ["epoch_bits", "dropout_counter", "optimizer.step"])
def test_an_incomplete_checkpoint_changes_nothing(tmp_path, missing):
    trainer, path = run(Trainer(TEXT, SMALL), until=2), tmp_path / "checkpoint"
    trainer.save_checkpoint(path)
    arrays = {name: array for name, array in read_extra(path)[0].items() if name != missing}
    trainer.model.save(path, trainer.notes(), arrays)
    other = Trainer(TEXT, SMALL)
    other.save_checkpoint(tmp_path / "before")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        other.load_checkpoint(path)
    other.save_checkpoint(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


@pytest.mark.parametrize("length", [0, 1, 2, 80])
def test_a_text_that_is_too_short_is_refused(length):
    with pytest.raises(ValueError, match=rf"the text has {length} characters, .* needs 84"):
        Trainer(TEXT[:length], SMALL)


def test_a_loss_that_is_not_finite_stops_the_training():
    trainer = Trainer(TEXT, SMALL)
    trainer.model.linear.bias = np.full(len(trainer.model.vocabulary), np.nan)
    before = trainer.model.network.state_dict()
    with pytest.raises(ValueError, match="the loss is nan after 0 steps"):
        trainer.step(0.1)
    after = trainer.model.network.state_dict()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_the_threads_of_blas_can_be_limited():
    if not blas.set_blas_threads(1):
        pytest.skip("this BLAS has no threads that can be limited")
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)
    getters = [name.replace("set_num", "get_num") for name in blas._SETTERS]
    assert 1 in [getattr(library, name)() for name in getters if hasattr(library, name)]


# ---- what the demo shows beside it ----


def test_ngram_bits_are_those_of_the_formula():
    text, held_out = "abracadabra abracadabra", "a cadabra bar"
    vocabulary = Vocabulary.of(text)

    def probability(run):
        if not run:
            return 1 / len(vocabulary)
        counts = Counter(text[k : k + len(run)] for k in range(len(text) - len(run) + 1))
        contexts = Counter(text[k : k + len(run) - 1] for k in range(len(text) - len(run) + 1))
        shorter = probability(run[1:])
        return (counts[run] + CONCENTRATION * shorter) / (contexts[run[:-1]] + CONCENTRATION)

    for order in (1, 2, 3):
        runs = [held_out[max(0, k - order + 1) : k + 1] for k in range(len(held_out))]
        expected = -np.mean([math.log2(probability(run)) for run in runs])
        found = ngram_bits(vocabulary.encode(text), vocabulary.encode(held_out), order, len(vocabulary))
        assert found == pytest.approx(expected, rel=1e-12)


def reach_by_differences(last_output, x, dh):
    """What the functions of `inspection` return, by central differences."""
    gradient, step = np.empty_like(x), 1e-5
    for index in np.ndindex(x.shape):
        values = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            values.append((last_output(moved) * dh).sum())
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return np.linalg.norm(gradient, axis=-1)[::-1]


def test_gradient_reach_agrees_with_differences():
    rng = np.random.default_rng(0)
    x, dh = rng.standard_normal((6, 2, 3)), rng.standard_normal((2, 4))
    lstm = clstm.LSTM(3, 4, dtype="float64", seed=0)
    weight_ih, weight_hh = rng.standard_normal((4, 3)), rng.standard_normal((4, 4))

    def rnn(x):
        h = np.zeros((2, 4))
        for x_t in x:
            h = np.tanh(x_t @ weight_ih.T + h @ weight_hh.T)
        return h

    of_lstm = reach_by_differences(lambda x: lstm(x)[0][-1], x, dh)
    np.testing.assert_allclose(inspection.lstm_gradient_reach(lstm, x, dh), of_lstm, rtol=1e-6)
    of_rnn = reach_by_differences(rnn, x, dh)
    np.testing.assert_allclose(inspection.rnn_gradient_reach(weight_ih, weight_hh, x, dh), of_rnn, rtol=1e-6)
