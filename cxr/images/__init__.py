"""Reading X-rays of any kind, and what becomes of their pixels."""

import cv2

# Work is shared out over processes. A pool of OpenCV's own threads would fight with them over the
# cores, and a forked process hangs when it touches the pool of its parent.
cv2.setNumThreads(0)
