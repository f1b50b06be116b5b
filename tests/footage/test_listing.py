"""What clips there are: lists, folders and packed collections, and what is said where there are none."""

import pytest
from footage_clips import write_packed

from latentsync.errors import FootageError
from latentsync.footage.content import ContentKeys, check_splits, duplicates
from latentsync.footage.listing import find_clips, folder_clips, listed_clips, packed_clips


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())


def test_a_folder_gives_its_videos_from_below_in_order(tmp_path):
    touch(tmp_path / "b" / "x.mp4", tmp_path / "a.MP4", tmp_path / "b" / ".x.part.mp4", tmp_path / "a.wav")
    clips = folder_clips(tmp_path, split="val")
    assert [(clip.name, clip.kind, clip.split) for clip in clips] == [
        ("a", "video", "val"),
        ("x", "video", "val"),
    ]


def test_the_list_wins_over_the_folder_and_counts_a_repeated_line_again(tmp_path):
    touch(tmp_path / "clips" / "a.mp4", tmp_path / "clips" / "b.mp4")
    text = tmp_path / "clips" / "list.txt"
    text.write_text(f"b.mp4\n\n{tmp_path / 'clips' / 'b.mp4'}\n")
    assert [clip.name for clip in find_clips(text, tmp_path / "clips")] == ["b", "b"]
    assert [clip.name for clip in find_clips("", tmp_path / "clips")] == ["a", "b"]


def test_a_packed_collection_gives_one_split_with_its_speakers(tmp_path):
    folder = write_packed(tmp_path, speakers=("ann", "bob", "ann"), splits=("train", "val", "train"))
    assert [(clip.name, clip.speaker) for clip in find_clips("", folder)] == [("c0", "ann"), ("c2", "ann")]
    assert [clip.name for clip in find_clips("", folder, split="val")] == ["c1"]
    assert len(packed_clips(folder)) == 3
    listing = tmp_path / "list.txt"
    listing.write_text("c1\n")
    assert [(clip.name, clip.kind) for clip in listed_clips(listing)] == [("c1", "packed")]
    with pytest.raises(FootageError, match="no clip of the split 'test'; it has: train, val"):
        find_clips("", folder, split="test")


def test_missing_lines_are_counted_and_the_first_named(tmp_path):
    touch(tmp_path / "a.mp4")
    text = tmp_path / "list.txt"
    text.write_text("a.mp4\n" + "".join(f"gone{n}.mp4\n" for n in range(5)))
    with pytest.raises(FootageError, match=r"5 of 6 clips .* missing: .*gone0.*gone1.*gone2\.mp4, \.\.\."):
        find_clips(text)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "it holds nothing; run scripts/pack_footage.py"),
        (["a.wav", "x/b.wav", "c.mov"], r"it holds 2 \.wav, 1 \.mov"),
        (["c0/faces.npy", "c0/waveform.npy"], "1 packed clips but no clips.json"),
    ],
)
def test_an_empty_or_otherwise_laid_out_folder_is_refused(tmp_path, names, said):
    touch(*(tmp_path / name for name in names))
    with pytest.raises(FootageError, match=said):
        find_clips("", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "lists no clips"),
        ("{", "no list of packed clips"),
        ('[{"name": "a"}]', "no list of packed clips"),
        ('[{"name": "a", "split": "train", "speaker": "s"}]', "1 of 1 clips .* lack faces.npy"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "clips.json").write_text(text)
    with pytest.raises(FootageError, match=said):
        find_clips("", tmp_path)


def test_nothing_named_and_paths_that_are_not_there(tmp_path):
    with pytest.raises(FootageError, match="set train_fileslist"):
        find_clips()
    with pytest.raises(FileNotFoundError, match="train_data_dir"):
        find_clips("", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="train_fileslist"):
        find_clips(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(FootageError, match="is empty"):
        find_clips(tmp_path / "empty.txt")


def test_equal_recordings_of_two_splits_are_found_by_their_bytes(tmp_path):
    train, val = tmp_path / "train", tmp_path / "val"
    touch(train / "a.mp4", train / "b.mp4")
    touch(val / "a.mp4", val / "c.mp4")
    (val / "a.mp4").write_bytes(b"another take of equal name")
    keys = ContentKeys(tmp_path / "cache")
    clips = folder_clips(train) + folder_clips(val, split="val")
    check_splits(clips, keys)
    (val / "c.mp4").write_bytes((train / "b.mp4").read_bytes())
    with pytest.raises(
        FootageError, match=r"1 clips serve more than one split: .*b\.mp4 \(train\) = .*c\.mp4"
    ):
        check_splits(clips, ContentKeys(tmp_path / "cache"))
    assert [[clip.name for clip in group] for group in duplicates(clips, keys)] == [["b", "c"]]


def test_a_key_is_remembered_over_runs_and_a_damaged_note_is_not_trusted(tmp_path, monkeypatch):
    touch(tmp_path / "a.mp4")
    (clip,) = folder_clips(tmp_path)
    key = ContentKeys(tmp_path / "cache").of(clip)
    with monkeypatch.context() as patch:
        patch.setattr("latentsync.footage.content._digest", lambda clip: pytest.fail("read again"))
        assert ContentKeys(tmp_path / "cache").of(clip) == key
    (note,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    note.write_text("half a k")
    assert ContentKeys(tmp_path / "cache").of(clip) == key
