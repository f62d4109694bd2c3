"""Downloads the media of a data set: plain files over HTTP, and clips of videos with yt-dlp.

Reading order: __main__.py (the command), ledger.py (what became of each clip), listing.py (which clips are still to
be downloaded), files.py with http_download.py and unpack.py (plain files), clips.py (the loop over clips),
clip_download.py (one clip with yt-dlp), outcomes.py (what an error means), cut_check.py (is the clip complete?).
"""
