"""Prediction on any X-rays: files and folders, the local page, structured reports."""
