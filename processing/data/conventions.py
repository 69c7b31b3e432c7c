# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What all parts agree on: the modalities, and the endings of media files."""

MODALITIES = ("video", "audio")
# where a clip is there with several endings, the first of these is taken
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".flv", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg")
VIDEO_SUFFIXES += (".wmv", ".3gp", ".ogv")
AUDIO_SUFFIXES = (".wav", ".flac", ".m4a", ".mp3", ".ogg")
