"""What both tasks of SIIM-FISABIO-RSNA COVID-19 Detection, studies and boxes, have in common: files, folds, names.

The folds of both must be the same, as boxes enter the images' scores out of fold.
"""

from cxr.data.duplicates import cluster_report, find_copies, join_groups
from cxr.datasets.covid.files import CLASSES, IMAGES, STUDIES, read_tables
from cxr.datasets.covid.synthetic import write_covid
from cxr.plots.duplicate_sheet import write_sheet


class CovidTables:
    slug = "siim-covid19-detection"
    class_names, box_classes = CLASSES, ("Opacity",)
    expected_files = (STUDIES, IMAGES, "train")
    # 7,597 images of 3187 x 2753 pixels in the mean, two bytes each: what it takes if nothing is compressed.
    zip_bytes = extracted_bytes = int(134e9)
    read_tables = staticmethod(read_tables)
    write_synthetic = staticmethod(write_covid)

    def table_settings(self, config):
        """What `read_tables` is told; a folder of step 02 holds the images of one value of each."""
        return {"cleaning": config.cleaning}

    def group_rows(self, table, folder, notes):
        """The table with `cluster` (copies, found on the pictures) and with groups that no fold may divide: connected
        components of patients, studies and clusters. Writes copies.png, to look at what counts as a copy."""
        clusters, pairs = find_copies(table["image_id"], folder / "images")
        write_sheet(folder / "copies.png", table, pairs, folder / "images")
        facts = {
            "hold several patients": "patient",
            "several studies": "study_id",
            "several classes": "label",
        }
        notes.append(
            cluster_report(clusters, {words: table[name] for words, name in facts.items()})
        )
        return table.assign(
            cluster=clusters,
            group=join_groups(table["patient"], table["study_id"], clusters),
            mask_known=(table["n_boxes"] > 0) | (table["label"] == 0),
        )  # clipping may have taken boxes
