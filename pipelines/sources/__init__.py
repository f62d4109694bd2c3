"""Data set layouts, one file each: `rows(source)` yields the clips of one split. Reading order: folder.py (any videos), audioset.py, places_audio.py;
toy_world writes a small world in the same layouts, with layouts.py and what it draws, plays, says and encodes (scene.py, sound.py,
speech.py, media.py)."""
