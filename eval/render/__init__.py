"""Videos and images of what a model finds: render.py (video or image in, file out), __main__.py (its command).

views.py, decorations.py and audio_strip.py draw; recording.py, pca.py and still.py are the first pass; writer.py and
sound.py write the file.
"""
