"""Data set layouts, one file each: `rows(source)` yields the clips of one split. Reading order: folder.py (any videos), audioset.py, places_audio.py;
toy_world.py writes a small world in the same layouts, with toy_layouts.py and what it draws, plays, says and encodes (toy_scene.py, toy_sound.py,
toy_speech.py, toy_media.py)."""
