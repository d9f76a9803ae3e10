"""Attenuation of the phantom's tissues in Hounsfield units at 120 kV.

Soft tissues follow the usual table (white matter 20..30, grey matter 37..45, CSF 0..15, fat
-50..-100, haematoma 40..90, bone 700..3000, air -1000): Buzug, Computed Tomography (Springer 2008),
p. 475; Prokop & Galanski, Spiral and Multislice CT of the Body (Thieme 2003). Clotted blood starts
at 60 to 80 HU; blood that has not clotted or that CSF dilutes is less dense. A clot is denser than
brain at first and less dense than it after 30 days (Tans, Clin Neurol Neurosurg 1977;79:285-295):
from 72 to 37 HU, that is about 1.2 HU a day.
"""

AIR_HU = -1000.0
LOWEST_HU = -1024
"""What scanners write where nothing was reconstructed, and the lowest value of BHSD's images."""
HIGHEST_HU = 3071
"""The highest value of a 12-bit CT image."""

SKIN_HU = 35.0
FAT_HU = -90.0
MUSCLE_HU = 55.0
CORTICAL_BONE_HU = 1350.0
DIPLOE_HU = 650.0
MASTOID_AIR_CELLS_HU = -300.0

CSF_HU = 8.0
GREY_MATTER_HU = 38.0
WHITE_MATTER_HU = 29.0
DURA_HU = 48.0
VENOUS_SINUS_HU = 52.0
VITREOUS_HU = 8.0
SCLERA_HU = 45.0
LENS_HU = 75.0
CALCIFICATION_HU = 180.0
OEDEMA_HU = 19.0

FRESH_CLOT_HU = 72.0
FAINTEST_BLOOD_HU = 48.0
CLOT_DECAY_HU_PER_DAY = 1.2

VARIED_BLOOD_HU = ((42.0, 72.0), (36.0, 72.0), (27.0, 62.0), (36.0, 62.0), (30.0, 74.0))
"""Of EDH, IPH, IVH, SAH and SDH. In 36 slices of 25 public scans their medians are 43 to 66, 24 to
62, 28 to 50, 35 to 58 and 24 to 73 HU; half of the bleeds are less than 13 HU denser than what
surrounds them."""
VARIED_DURA_HU = (42.0, 72.0)
VARIED_SINUS_HU = (42.0, 74.0)
VARIED_CUPPING_HU = (-9.0, 1.0)
"""In those slices, brain 20 mm and more from the bone has a median of 26 HU (22 to 32 in 8 of 10),
where the phantom's own has 31."""
VARIED_HARDENING_HU = (3.0, 24.0)
"""In those slices, brain at 2.5 to 4 mm from the bone is 11 HU denser in the median than brain that
is 20 mm away from it (2 to 20; 9 of 10 slices)."""
INFARCT_HU = (14.0, 26.0)

TABLE_SHELL_HU = 110.0
TABLE_FOAM_HU = -950.0
