"""Areas of the surface elements of a mask, for a surface Dice by area.

A surface passes between voxels, through the 2 x 2 x 2 neighbourhoods that hold both voxels of the
mask and others. In each it is a few triangles, by marching cubes (Lorensen and Cline, SIGGRAPH
1987). The triangles are those of surface-distance (Google DeepMind, Apache License 2.0,
https://github.com/google-deepmind/surface-distance, `lookup_tables.py`), so that areas are equal.
"""

import itertools

import numpy as np

_BITS = np.array([128, 64, 32, 16, 8, 4, 2, 1]).reshape(2, 2, 2)
"""The bit of each voxel of a neighbourhood, axes (slice, row, column)."""

FULL = 255
"""The code of a neighbourhood inside the mask; 0 is one outside."""

# For each code, three letters a triangle: its normal along (slice, row, column), as long as its
# area, in eighths of a voxel; "a" is -4, "e" is 0, "i" is 4.
_NORMALS = """
- fff ddf ccegge fdf cecgeg fdfddf ieegggfff dff fffdff cegceg ieeccgddf gcegce ieegcgdfd
aeecggdff ieeiee fdd eccegg ddffdd eaegggfff fdffdd eeagggddd ddffdffdd dddcccgggfff dfffdd
ecceggdff cegcegfdd fffhhhecgceg fddgcegce hhhegcdddcge aeedddcccfff aeedddccc fdf ffffdf ecgegc
eaeffdggc fdffdf fdfcecgeg ecgegcfdf bbheggffdcec dfffdf ffffdfdff eeiccgddf ggcggcffdddf
fdfgcegce ieegcgdfdfdf egchbbdffgge aeeccgddf gcecge eiecggfdd eiefdfcgc eieeae gcecgefdf
bbbcegdddcge fffeaecccddd eaecccddd dffgcecge eieggcddfddf bhbccedfdceg eieggcddf gcecgegcegce
ccecceddf fffccecce ccecce ddf fffddf ddfddf ddfccegge ecgecg eeigcgfdf ecgecgddf hbheccdfdgge
ddfdff fffddfdff ddfcegceg ieeccgddfddf eiecgcfdf cgccgcdfddfd cechbbegcdff ieecgcfdf ceggec
eeicggdff ddfceggec cecbhhccedff eeaggcddf eeieei ffffffgggeei fffgggeei ceggecdff eeigcgfdffdf
cegcegceggec fdfgeggeg gegbbhcgeddf eeigcgfdf fffgeggeg geggeg ddffdf fffddffdf ddfecgegc
eaeffdggcddf ecgecgfdf eeigcgfdffdf ecgecgecgegc eggeggfdd dfffdfddf dfffdfddffff eeiccgddfddf
ffffdffdd eiecgcfdffdf fffddffdd ecceggfff ffffdd ieegccfdd cggdffcggfdd hbheggdfdceg eaecggdff
bbhgceeggddf dffcggeei fffeggegg eggegg ieegggffffff fdfddffff cecgegfff ffffdf cceggefff fffddf
ffffff fff fff ffffff fffddf cceggefff ffffdf cecgegfff fdfddffff ieegggffffff eggegg fffeggegg
dffcggeei bbhgceeggddf eaecggdff hbheggdfdceg cggdffcggfdd ieegccfdd ffffdd ecceggfff fffddffdd
eiecgcfdffdf ffffdffdd eeiccgddfddf dfffdfddffff dfffdfddf eggeggfdd ecceggeggegg eeigcgfdffdf
ecgecgfdf eaeffdggcddf ddfecgegc fffddffdf ddffdf geggeg fffgeggeg eeigcgfdf gegbbhcgeddf
fdfgeggeg cecgeggeggeg eeigcgfdffdf ceggecdff fffgggeei ffffffgggeei eeieei eeaggcddf
cecbhhccedff ddfceggec eeicggdff ceggec ieecgcfdf cechbbegcdff cgccgcdfddfd eiecgcfdf
ieeccgddfddf ddfcegceg fffddfdff ddfdff hbheccdfdgge ecgecgddf eeigcgfdf ecgecg ddfccegge ddfddf
fffddf ddf ccecce fffccecce ccecceddf ccecceccegge eieggcddf bhbccedfdceg eieggcddfddf dffgcecge
eaecccddd fffeaecccddd bbbcegdddcge gcecgefdf eieeae eiefdfcgc eiecggfdd gcecge aeeccgddf
egchbbdffgge ieegcgdfdfdf fdfgcegce ggcggcffdddf eeiccgddf ffffdfdff dfffdf bbheggffdcec
ecgegcfdf fdfcecgeg fdffdf eaeffdggc ecgegc ffffdf fdf aeedddccc aeedddcccfff hhhegcdddcge
fddgcegce fffhhhecgceg cegcegfdd ecceggdff dfffdd dddcccgggfff ddffdffdd eeagggddd fdffdd
eaegggfff ddffdd eccegg fdd ieeiee aeecggdff ieegcgdfd gcegce ieeccgddf cegceg fffdff dff
ieegggfff fdfddf cecgeg fdf ccegge ddf fff -
"""


def neighbourhood_codes(mask: np.ndarray) -> np.ndarray:
    """Codes of all 2 x 2 x 2 neighbourhoods of a mask, those half outside the array included.

    Args:
        mask: (S, R, C) bool; what lies outside the array does not belong to it.

    Returns:
        (S+1, R+1, C+1) uint8: sums of the bits of the voxels of the mask. Neighbourhood (i, j, k)
        holds voxels (i-1, j-1, k-1) to (i, j, k), and its centre is their common corner.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    slices, rows, columns = (size + 1 for size in mask.shape)
    codes = np.zeros((slices, rows, columns), np.uint8)
    for i, j, k in itertools.product(range(2), repeat=3):
        bit = np.uint8(_BITS[i, j, k])
        codes += bit * padded[i : i + slices, j : j + rows, k : k + columns]
    return codes


def element_areas_mm2(steps_mm: np.ndarray) -> np.ndarray:
    """Area of the surface in a neighbourhood, by its code.

    An area vector transforms with the cofactors of the matrix of steps, which for right angles are
    the products of two spacings, and hold for a tilted gantry too.

    Args:
        steps_mm: (3, 3), row a is the step in mm from a voxel to the next along array axis a.

    Returns:
        (256,) float64 mm^2.
    """
    cofactors = np.linalg.det(steps_mm) * np.linalg.inv(steps_mm).T
    areas = np.zeros(FULL + 1)
    for code, text in enumerate(_NORMALS.split()):
        if text != "-":
            letters = np.frombuffer(text.encode(), np.uint8).astype(np.float64)
            normals = (letters - ord("e")).reshape(-1, 3) / 8
            areas[code] = np.linalg.norm(normals @ cofactors, axis=1).sum()
    return areas
