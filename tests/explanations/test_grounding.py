"""Grounding: which action units texts claim, in plain words or FACS's, and how well that agrees with the measured."""

import time
from collections.abc import Iterator

import pytest

from explllm.core.action_units import FEAFA, INTENSITY_WORDS, NAMES, mirror_action_units
from explllm.core.errors import InputError
from explllm.explanations.grounding import STRONG, TOLERANCE, claims, ground


def _named(units: str) -> set[int]:
    """Return the places of units given by name; "Both Brow Raise" is the one of each side."""
    return set(_places(units))


def _places(units: str) -> Iterator[int]:
    for name in filter(None, units.split(", ")):
        if name.startswith("Both "):
            yield NAMES.index(name.replace("Both", "Left"))
            yield NAMES.index(name.replace("Both", "Right"))
        else:
            yield NAMES.index(name)


def _measured(**intensities: float) -> list[float]:
    """Return 24 intensities, given by name with underscores for spaces."""
    return [intensities.get(name.replace(" ", "_"), 0.0) for name in NAMES]


# A sentence, the units that it claims, all of them, and units that it denies, among others perhaps.
SENTENCES = [
    # Lists of denials, and where they end.
    (
        "The absence of raised eyebrows, furrowed brows, and a smile confirms a neutral state.",
        "",
        "Both Brow Raise, Both Brow Lower, Both Lip Corner Pull",
    ),
    (
        "The absence of raised eyebrows and widened eyes confirms a neutral state.",
        "",
        "Both Brow Raise, Both Lid Raise",
    ),
    (
        "Without raised brows, widened eyes, and a dropped jaw, this is not surprise.",
        "",
        "Both Brow Raise, Both Lid Raise, Jaw Drop",
    ),
    (
        "The lack of brow raise, jaw drop, and lip corner pull suggests calm.",
        "",
        "Both Brow Raise, Jaw Drop, Both Lip Corner Pull",
    ),
    ("The face lacks wide eyes and raised brows.", "", "Both Brow Raise, Both Lid Raise"),
    (
        "Without a smile, the brows are lowered and the eyes narrowed.",
        "Both Brow Lower, Both Eye Close",
        "Both Lip Corner Pull",
    ),
    ("Without a smile, and with lowered brows, the face looks angry.", "Both Brow Lower", "Both Lip Corner Pull"),
    (
        "Without a smile, lowered brows and narrowed eyes suggest anger.",
        "Both Brow Lower, Both Eye Close",
        "Both Lip Corner Pull",
    ),
    ("She does not smile, raise her brows, or open her mouth.", "", "Both Lip Corner Pull, Both Brow Raise, Jaw Drop"),
    (
        "The face does not display a smile, raised brows, or a dropped jaw.",
        "",
        "Both Lip Corner Pull, Both Brow Raise, Jaw Drop",
    ),
    ("Raised brows, widened eyes, and a dropped jaw are absent.", "", "Both Brow Raise, Both Lid Raise, Jaw Drop"),
    ("The brows are raised, and a smile is absent.", "Both Brow Raise", "Both Lip Corner Pull"),
    ("With raised brows, a smile is absent.", "Both Brow Raise", "Both Lip Corner Pull"),
    ("Signs of fear, such as raised brows and widened eyes, are absent.", "", "Both Brow Raise, Both Lid Raise"),
    ("Typical markers of anger (lowered brows, narrowed eyes) are absent.", "", "Both Brow Lower, Both Eye Close"),
    ("No smile and a pronounced lower lip depression are visible.", "Lower Lip Depress", "Both Lip Corner Pull"),
    ("The lip raise complements rather than detracts from the smile.", "Upper Lip Raise, Both Lip Corner Pull", ""),
    ("Raised lip corners and a relaxed brow convey joy.", "Both Lip Corner Pull", ""),
    ("The eyes are widely opened.", "Both Lid Raise", ""),
    ("Without raised brows, the eyes widen and the jaw drops.", "Both Lid Raise, Jaw Drop", "Both Brow Raise"),
    (
        "In the absence of a smile, the brows lower and the jaw drops.",
        "Both Brow Lower, Jaw Drop",
        "Both Lip Corner Pull",
    ),
    ("Without a raised brow, the lips part and the jaw drops.", "Jaw Drop", "Both Brow Raise"),
    ("The brows, free of tension, rise and the eyes widen.", "Both Brow Raise, Both Lid Raise", ""),
    (
        "Without raised brows, wide eyes, and dropped jaw, the lips are pressed.",
        "Upper Lip Suck, Lower Lip Suck",
        "Both Brow Raise, Both Lid Raise, Jaw Drop",
    ),
    ("Nothing suggests a smile.", "", "Both Lip Corner Pull"),
    ("The left brow is slightly lowered while the right brow mirrors this movement.", "Both Brow Lower", ""),
    ("Both brows are raised and the eyes are wide open.", "Both Brow Raise, Both Lid Raise", ""),
    ("Her eyes are wide open.", "Both Lid Raise", ""),
    ("The eyebrows are furrowed.", "Both Brow Lower", ""),
    ("A furrowed brow and a frown.", "Both Brow Lower", ""),
    ("A broad smile lights up the face.", "Both Lip Corner Pull", ""),
    ("The corners of the mouth are lifted.", "Both Lip Corner Pull", ""),
    ("The nose is wrinkled.", "Nose Wrinkle", ""),
    ("The nose is scrunched up.", "Nose Wrinkle", ""),
    ("His jaw drops.", "Jaw Drop", ""),
    ("The mouth is open.", "Jaw Drop", ""),
    ("The mouth is slightly open.", "Jaw Drop", ""),
    ("Pursed lips.", "Lip Pucker", ""),
    ("The lips are puckered.", "Lip Pucker", ""),
    ("The lips are pressed together.", "Upper Lip Suck, Lower Lip Suck", ""),
    ("The lips are pressed into a thin line.", "Upper Lip Suck, Lower Lip Suck", ""),
    ("The lip corners are pulled down.", "Both Lip Corner Stretch", ""),
    ("The lip corners are pulled back.", "Both Lip Corner Stretch", ""),
    ("The lip corners are stretched.", "Both Lip Corner Stretch", ""),
    ("The upper lip is raised.", "Upper Lip Raise", ""),
    ("The chin is raised.", "Chin Raise", ""),
    ("The cheeks are puffed.", "Cheeks Puff", ""),
    ("The cheeks are puffed out.", "Cheeks Puff", ""),
    ("The eyes are closed.", "Both Eye Close", ""),
    ("Narrowed eyes.", "Both Eye Close", ""),
    ("Squinted eyes.", "Both Eye Close", ""),
    ("The eyes are squinting.", "Both Eye Close", ""),
    ("There is no smile.", "", "Both Lip Corner Pull"),
    ("The brows are not raised.", "", "Both Brow Raise"),
    ("Without a smile, the brows are lowered.", "Both Brow Lower", "Both Lip Corner Pull"),
    ("The absence of a smile and lack of brow movement.", "", "Both Lip Corner Pull, Both Brow Raise"),
    ("Neither the brows nor the eyelids are raised.", "", "Both Brow Raise, Both Lid Raise"),
    ("The brows remain neutral.", "", "Both Brow Raise, Both Brow Lower"),
    ("The jaw is unchanged.", "", "Jaw Drop"),
    ("The lip corners are raised rather than stretched.", "Both Lip Corner Pull", "Both Lip Corner Stretch"),
    (
        "The nose is wrinkled and the upper lip raised, but the brows are not lowered.",
        "Nose Wrinkle, Upper Lip Raise",
        "Both Brow Lower",
    ),
    ("No jaw drop, brow raise, or nose wrinkling is seen.", "", "Jaw Drop, Both Brow Raise, Nose Wrinkle"),
    ("The face suggests sadness.", "", ""),
    ("Suggesting sadness and deep sorrow, the face is heavy.", "", ""),
    ("The left eye is closed; the right eye stays open.", "Left Eye Close", "Right Eye Close"),
    ("The left eyebrow is raised higher than the right.", "Left Brow Raise", ""),
    ("Raised eyebrows and a dropped jaw.", "Both Brow Raise, Jaw Drop", ""),
    ("Lowered eyebrows with raised upper lip.", "Both Brow Lower, Upper Lip Raise", ""),
    (
        "The brows are drawn together and lowered, the eyelids are tightened and the lips are pressed firmly.",
        "Both Brow Lower, Both Eye Close, Upper Lip Suck, Lower Lip Suck",
        "",
    ),
    ("The inner corners of the eyebrows are raised.", "Both Brow Raise", ""),
    ("One eyebrow is raised.", "Both Brow Raise", ""),
    ("The right lip corner is pulled up, the left is not.", "Right Lip Corner Pull", ""),
    ("The jaw slides to the left.", "Jaw Slide Left", ""),
    ("The jaw is shifted to the right.", "Jaw Slide Right", ""),
    ("A slight leftward shift of the jaw.", "Jaw Slide Left", ""),
    ("The jaw is thrust forward.", "Jaw Thrust", ""),
    ("The jaw juts out.", "Jaw Thrust", ""),
    ("The lower lip is pulled down, exposing the teeth.", "Lower Lip Depress", ""),
    ("The lower lip is sucked in.", "Lower Lip Suck", ""),
    ("She bites her lower lip.", "Lower Lip Suck", ""),
    ("He is biting the lip.", "Upper Lip Suck, Lower Lip Suck", ""),
    ("The lips are drawn inward.", "Upper Lip Suck, Lower Lip Suck", ""),
    ("Both lips are sucked in.", "Upper Lip Suck, Lower Lip Suck", ""),
    ("The upper lip curls.", "Upper Lip Raise", ""),
    ("The mouth curves upward.", "Both Lip Corner Pull", ""),
    ("The mouth turns down at the corners.", "Both Lip Corner Stretch", ""),
    ("The corners of the mouth turn down.", "Both Lip Corner Stretch", ""),
    ("The corners of the mouth turn up.", "Both Lip Corner Pull", ""),
    ("Mouth agape and eyes widened.", "Jaw Drop, Both Lid Raise", ""),
    ("The eyes are half-closed.", "Both Eye Close", ""),
    ("Eyes shut tightly, brows knitted.", "Both Eye Close, Both Brow Lower", ""),
    ("A wide-eyed look with arched brows.", "Both Lid Raise, Both Brow Raise", ""),
    ("She smirks.", "Both Lip Corner Pull", ""),
    ("The upper eyelids are raised, exposing the sclera.", "Both Lid Raise", ""),
    ("The eyelids droop.", "Both Eye Close", ""),
    ("The brow is smooth, with no furrow.", "", "Both Brow Lower"),
    ("The mouth is closed.", "", "Jaw Drop"),
    ("The lips are parted.", "Jaw Drop", ""),
    ("The lips are tightly closed.", "", "Jaw Drop"),
    ("Her left mouth corner is tugged sideways.", "Left Lip Corner Stretch", ""),
    ("The lips stretch horizontally.", "Both Lip Corner Stretch", ""),
    ("AU4 brow lowerer is strong and AU12 lip corner puller is absent.", "Both Brow Lower", "Both Lip Corner Pull"),
    ("Brow raise is absent.", "", "Both Brow Raise"),
    (
        "Brow lowering and lid raise are present while lip corner pull is not present.",
        "Both Brow Lower, Both Lid Raise",
        "Both Lip Corner Pull",
    ),
    ("The eyebrows are raised but not furrowed.", "Both Brow Raise", "Both Brow Lower"),
    ("The eyes are not closed.", "", "Both Eye Close"),
    ("The eyes are not fully closed.", "Both Eye Close", ""),
    ("The person is frowning.", "Both Brow Lower", ""),
    ("The mouth forms a wide smile.", "Both Lip Corner Pull", ""),
    ("The eyelids are lifted and the brows too.", "Both Lid Raise, Both Brow Raise", ""),
    ("The right side of the mouth is raised.", "Right Lip Corner Pull", ""),
    (
        "The left corner of the mouth rises while the right corner falls.",
        "Left Lip Corner Pull, Right Lip Corner Stretch",
        "",
    ),
    ("The left and right eyebrows are slightly raised.", "Both Brow Raise", ""),
    ("The left eyebrow and the right eyelid are raised.", "Left Brow Raise, Right Lid Raise", ""),
    ("There is a marked raise of the left brow and the left upper eyelid.", "Left Brow Raise, Left Lid Raise", ""),
    ("The jaw hangs open.", "Jaw Drop", ""),
    ("A slack jaw.", "Jaw Drop", ""),
    ("The chin is pushed up.", "Chin Raise", ""),
    ("The chin boss is wrinkled and pushed upward.", "Chin Raise", ""),
    ("The cheeks are inflated.", "Cheeks Puff", ""),
    ("The cheeks are raised.", "", ""),
    ("The nostrils flare.", "", ""),
    ("The lips protrude.", "Lip Pucker", ""),
    ("The lips are pushed out.", "Lip Pucker", ""),
    ("The lips pout.", "Lip Pucker", ""),
    ("The forehead is furrowed.", "Both Brow Lower", ""),
    ("The smile does not reach the eyes.", "Both Lip Corner Pull", ""),
    ("The subject does not smile.", "", "Both Lip Corner Pull"),
    ("The subject is not smiling and the brows are lowered.", "Both Brow Lower", "Both Lip Corner Pull"),
    ("The brows are raised, without any lowering.", "Both Brow Raise", "Both Brow Lower"),
    ("Instead of a smile, the lips show a pucker.", "Lip Pucker", "Both Lip Corner Pull"),
    ("Little to no jaw drop.", "", "Jaw Drop"),
    ("The jaw remains closed.", "", "Jaw Drop"),
    ("The jaw is relaxed and closed.", "", "Jaw Drop"),
    ("The eyes appear slightly squinted and the brows slightly drawn down.", "Both Eye Close, Both Brow Lower", ""),
    ("The upper lip is drawn in.", "Upper Lip Suck", ""),
    ("The lips are rolled inward.", "Upper Lip Suck, Lower Lip Suck", ""),
    ("The lips are tucked in.", "Upper Lip Suck, Lower Lip Suck", ""),
    ("Eyebrows raised, eyes wide, mouth open.", "Both Brow Raise, Both Lid Raise, Jaw Drop", ""),
    ("With eyebrows raised and mouth open in shock.", "Both Brow Raise, Jaw Drop", ""),
    ("There is a pronounced wrinkling across the nose.", "Nose Wrinkle", ""),
    ("A crease between the brows.", "Both Brow Lower", ""),
    ("The face is lit by a grin.", "Both Lip Corner Pull", ""),
    ("Lip corners up, cheeks up.", "Both Lip Corner Pull", ""),
    ("The mouth corners are down.", "Both Lip Corner Stretch", ""),
    ("The brows go up.", "Both Brow Raise", ""),
    ("The brow is pulled downwards.", "Both Brow Lower", ""),
    ("The lower lip drops.", "Lower Lip Depress", ""),
    ("The lips are stretched sideways.", "Both Lip Corner Stretch", ""),
    ("The mouth is stretched wide.", "Both Lip Corner Stretch", ""),
    ("The lip corners are lifted on the left side.", "Left Lip Corner Pull", ""),
    ("Other action units are 0; only the jaw drops.", "Jaw Drop", "Both Brow Raise"),
    ("He raises his eyebrows.", "Both Brow Raise", ""),
    ("She closes her eyes and opens her mouth.", "Both Eye Close, Jaw Drop", ""),
    ("His left eyelid is slightly lowered.", "Left Eye Close", ""),
    ("She scrunches her nose.", "Nose Wrinkle", ""),
    ("They purse their lips.", "Lip Pucker", ""),
    ("The raised brows lack any furrowing.", "Both Brow Raise", "Both Brow Lower"),
    ("No eyebrow movement is visible.", "", "Both Brow Raise, Both Brow Lower"),
    ("No movement is seen in the jaw.", "", "Jaw Drop"),
    ("The eyes are neither closed nor widened.", "", "Both Eye Close, Both Lid Raise"),
    ("The brow isn't lowered.", "", "Both Brow Lower"),
    ("It is not a smile but a stretch of the lip corners.", "Both Lip Corner Stretch", "Both Lip Corner Pull"),
    ("Far from smiling, the lips are pressed.", "Upper Lip Suck, Lower Lip Suck", ""),
    (
        "Both lip corners are strongly pulled up, and the left eye is slightly closed.",
        "Both Lip Corner Pull, Left Eye Close",
        "",
    ),
    ("The left eyelid is raised, as is the right.", "Both Lid Raise", ""),
    ("The right brow is raised and so is the left one.", "Both Brow Raise", ""),
    ("The left brow is raised; the right one is lowered.", "Left Brow Raise, Right Brow Lower", ""),
    ("The left eye is closed and so is the right.", "Both Eye Close", ""),
    ("The eyes are open wide.", "Both Lid Raise", ""),
    ("Eyes are tightly shut.", "Both Eye Close", ""),
    ("The mouth gapes.", "Jaw Drop", ""),
    ("The lips are compressed.", "Upper Lip Suck, Lower Lip Suck", ""),
    ("Corners of lips are angled downward.", "Both Lip Corner Stretch", ""),
    ("The person winks with the left eye.", "Left Eye Close", ""),
    ("The jaw is clenched.", "", ""),
    ("The head is lowered.", "", ""),
    ("The gaze is lowered.", "", ""),
    ("The teeth are exposed by a raised upper lip.", "Upper Lip Raise", ""),
    ("Inner brow raiser and lip corner depressor are active.", "Both Brow Raise, Both Lip Corner Stretch", ""),
    ("The man's eyebrows shoot up and his mouth falls open.", "Both Brow Raise, Jaw Drop", ""),
    ("His brow is knit in concentration, his jaw set.", "Both Brow Lower", ""),
    ("Her lips are drawn back in a grin.", "Both Lip Corner Stretch, Both Lip Corner Pull", ""),
    ("The mouth is pulled to one side.", "", ""),
    ("The eyes are narrowed to slits while the nose is crinkled in disgust.", "Both Eye Close, Nose Wrinkle", ""),
    ("Wrinkles appear on the nose bridge.", "Nose Wrinkle", ""),
    ("There are no furrows in the brow and no tension in the jaw.", "", "Both Brow Lower"),
    ("The brows aren't furrowed, nor are the eyes narrowed.", "", "Both Brow Lower, Both Eye Close"),
    ("Although the mouth is open, the lip corners are not pulled up.", "Jaw Drop", "Both Lip Corner Pull"),
    (
        "The face lacks a smile; instead, the corners of the mouth droop.",
        "Both Lip Corner Stretch",
        "Both Lip Corner Pull",
    ),
    ("We see raised inner brows, drooping upper eyelids and a trembling chin.", "Both Brow Raise, Both Eye Close", ""),
    ("Neither a smile nor a frown is visible.", "", "Both Lip Corner Pull, Both Brow Lower"),
    ("Only the left side of the mouth lifts.", "Left Lip Corner Pull", ""),
    (
        "The lips are stretched horizontally and the eyes are widened with fear.",
        "Both Lip Corner Stretch, Both Lid Raise",
        "",
    ),
    ("The upper lip is raised on the right, baring the teeth.", "Upper Lip Raise", ""),
    (
        "The brows are lowered, but the eyelids are neither raised nor closed.",
        "Both Brow Lower",
        "Both Lid Raise, Both Eye Close",
    ),
    ("The left cheek is puffed.", "Cheeks Puff", ""),
    ("Both cheeks bulge.", "Cheeks Puff", ""),
    ("With puffed-out cheeks and a pout, the child sulks.", "Cheeks Puff, Lip Pucker", ""),
    ("The chin is dimpled and the lower lip pushed up.", "Chin Raise", ""),
    ("The jaw protrudes.", "Jaw Thrust", ""),
    ("The lower jaw is pushed forward.", "Jaw Thrust", ""),
    ("The jaw moves sideways.", "Jaw Slide Left, Jaw Slide Right", ""),
    ("The lower lip is tucked under the teeth.", "Lower Lip Suck", ""),
    ("The lower lip is bitten.", "Lower Lip Suck", ""),
    ("The eyes are squeezed shut.", "Both Eye Close", ""),
    ("Her gaze is steady and the mouth is relaxed.", "", ""),
    ("Raised lids, lowered brows.", "Both Lid Raise, Both Brow Lower", ""),
    ("She raises one eyebrow and smirks.", "Both Brow Raise, Both Lip Corner Pull", ""),
    ("The eyebrows slant downward.", "Both Brow Lower", ""),
    ("Eyebrows pulled up and together.", "Both Brow Raise, Both Brow Lower", ""),
    ("The corners of his lips are tilted upwards.", "Both Lip Corner Pull", ""),
    ("The mouth hangs open in a gape.", "Jaw Drop", ""),
    ("The person looks happy and relaxed, with no sign of tension.", "", ""),
    ("The nose shows no wrinkling.", "", "Nose Wrinkle"),
    ("Nose wrinkling is not observed.", "", "Nose Wrinkle"),
    ("His lips are tight.", "", ""),
    ("The brow is lowered on the left but raised on the right.", "Left Brow Lower, Right Brow Raise", ""),
    ("The right eye is wide open; the left one is half closed.", "Right Lid Raise, Left Eye Close", ""),
    ("The right brow is strongly raised, the left only slightly.", "Both Brow Raise", ""),
    ("The left eyelid rises; likewise the right.", "Both Lid Raise", ""),
    ("The eyes are not widened and the mouth is not open.", "", "Both Lid Raise, Jaw Drop"),
    ("The face is neutral and no action unit is active.", "", ""),
    ("There is no evidence of a smile or of raised brows.", "", "Both Lip Corner Pull, Both Brow Raise"),
    ("The brow raise is only marginal.", "Both Brow Raise", ""),
    ("The lips turn up slightly.", "Both Lip Corner Pull", ""),
    ("The corners of the lips turn slightly down.", "Both Lip Corner Stretch", ""),
    ("The nose is scrunched and the upper lip is curled.", "Nose Wrinkle, Upper Lip Raise", ""),
    ("A hint of a smile tugs at the left corner of her mouth.", "Left Lip Corner Pull", ""),
    (
        "The brow is deeply furrowed and the eyes are half shut, but the mouth stays neutral.",
        "Both Brow Lower, Both Eye Close",
        "",
    ),
    ("His eyebrows arch high while his jaw goes slack.", "Both Brow Raise, Jaw Drop", ""),
    ("Tears well up, the chin quivers and the lips tremble.", "", ""),
    (
        "The inner eyebrows slant upward and the corners of the mouth sag.",
        "Both Brow Raise, Both Lip Corner Stretch",
        "",
    ),
    ("Her nose wrinkles as the upper lip lifts into a sneer.", "Nose Wrinkle, Upper Lip Raise", ""),
    (
        "The eyes are narrowed, the brows pulled together, and the lips pressed tightly.",
        "Both Eye Close, Both Brow Lower, Upper Lip Suck, Lower Lip Suck",
        "",
    ),
    ("A lopsided smirk raises the right corner of the mouth only.", "Right Lip Corner Pull", ""),
    ("The mouth is stretched into a grimace, lips pulled back from the teeth.", "Both Lip Corner Stretch", ""),
    ("The child blows out his cheeks.", "Cheeks Puff", ""),
    ("There is neither eyebrow elevation nor any widening of the eyes.", "", "Both Brow Raise, Both Lid Raise"),
    (
        "The face shows widened eyes, elevated brows and an open mouth, but lacks any nose wrinkling.",
        "Both Lid Raise, Both Brow Raise, Jaw Drop",
        "Nose Wrinkle",
    ),
    ("With the lids drooping and the brows lowered, she looks tired.", "Both Eye Close, Both Brow Lower", ""),
    ("Lips are sealed tight, jaw jutting forward.", "Upper Lip Suck, Lower Lip Suck, Jaw Thrust", ""),
    ("The left lid closes in a wink.", "Left Eye Close", ""),
    ("The subject's right eyebrow is cocked.", "Right Brow Raise", ""),
    ("The lower lip juts out in a pout.", "Lip Pucker", ""),
    ("Raised cheeks and crow's feet accompany the smile.", "Both Lip Corner Pull", ""),
    ("No frown or scowl is present; the forehead is smooth.", "", "Both Brow Lower"),
    ("The lips form an O shape and the eyes bulge.", "Both Lid Raise", ""),
    ("Eyelids are lowered, mouth corners downturned.", "Both Eye Close, Both Lip Corner Stretch", ""),
    ("The brows are not furrowed; they are raised.", "Both Brow Raise", "Both Brow Lower"),
    ("The eyes remain closed throughout.", "Both Eye Close", ""),
    ("Both upper eyelids lift, exposing more of the whites.", "Both Lid Raise", ""),
    ("Her mouth falls open slightly as her eyebrows rise.", "Jaw Drop, Both Brow Raise", ""),
    ("The upper lip and nose are wrinkled.", "Nose Wrinkle", ""),
    ("His lips curl into a faint smile.", "Both Lip Corner Pull", ""),
    # Lists of absent units, and scores of 0.
    ("Absent units: eye closure, lid raise.", "", "Both Eye Close, Both Lid Raise"),
    ("The following units are absent: eye closure, lid raise and jaw drop.", "", "Both Eye Close, Both Lid Raise"),
    ("The intensity of every other action unit is 0: left eye close, jaw drop.", "", "Left Eye Close, Jaw Drop"),
    ("None of the remaining units (eye closure, lid raise) is active.", "", "Both Eye Close, Both Lid Raise"),
    ("None of the other units – eye closure, lid raise – is active.", "", "Both Eye Close, Both Lid Raise"),
    ("All other action units (left eye close, jaw drop) have an intensity of 0.", "", "Left Eye Close, Jaw Drop"),
    ("Left eye close, lip pucker, jaw drop – all 0", "", "Left Eye Close, Lip Pucker, Jaw Drop"),
    ("Active: lip pucker, jaw drop; not active: nose wrinkle.", "Lip Pucker, Jaw Drop", "Nose Wrinkle"),
    ("Inactive (0.0): nose wrinkle, lip pucker; active: jaw drop", "Jaw Drop", "Nose Wrinkle, Lip Pucker"),
    ("Absent: lip pucker, and the jaw is dropped.", "Jaw Drop", "Lip Pucker"),
    ("**Absent:**\n* Jaw drop\n* Lip pucker\n* **Present:**\n  * Nose wrinkle", "Nose Wrinkle", "Jaw Drop, Lip Pucker"),
    ("- **Jaw drop:** absent\n- **Lip pucker:** none", "", "Jaw Drop, Lip Pucker"),
    ("Jaw drop: 0, lip pucker – absent, nose wrinkle: 0.4", "Nose Wrinkle", "Jaw Drop, Lip Pucker"),
    ("Jaw drop is 0. AU18 (lip pucker): 0.00", "", "Jaw Drop, Lip Pucker"),
    ("Left brow raise (0.3) and jaw drop (AU26, 0.0) were measured.", "Left Brow Raise", "Jaw Drop"),
    ("The jaw drop is strong on a scale from 0 (absent) to 1, and not 0.", "Jaw Drop", ""),
    ("Raised brows and widened eyes, signs of surprise, are absent.", "", "Both Brow Raise, Both Lid Raise"),
    ("The typical signs of surprise – raised brows – are absent.", "", "Both Brow Raise"),
    # Not such a list.
    ("The lids, half closed, are not involved.", "Both Eye Close", ""),
    ("Signs of joy are absent: lowered brows.", "Both Brow Lower", ""),
    ("No strong movement: a slight smile.", "Both Lip Corner Pull", ""),
    ("There is no movement (apart from raised brows).", "Both Brow Raise", ""),
    ("No other movement is seen: the brows are lowered.", "Both Brow Lower", ""),
    ("The brows are raised; absent is a smile.", "Both Brow Raise", ""),
    ("All units except jaw drop are 0.", "Jaw Drop", ""),
    ("Slight jaw drop (0.4) and all others 0", "Jaw Drop", ""),
    # A movement of a part without a unit.
    ("Lid tightening and raised cheeks.", "Both Eye Close", ""),
    ("The brow raise and lowered gaze.", "Both Brow Raise", ""),
    ("The face lacks the lip corner pull and the raised cheeks.", "", "Both Lip Corner Pull"),
    ("Left brow: raised. Right brow: neutral.", "Left Brow Raise", "Right Brow Raise"),
    ("The left brow is raised, whereas the right brow shows no movement.", "Left Brow Raise", "Right Brow Raise"),
    ("Lip corners are pulled up asymmetrically, more on the left than on the right.", "Both Lip Corner Pull", ""),
    ("The jaw is dropped without the lips being stretched.", "Jaw Drop", "Both Lip Corner Stretch"),
    ("She is biting her bottom lip and furrowing her brow.", "Lower Lip Suck, Both Brow Lower", ""),
    ("The lips are pushed forward as if to kiss.", "Lip Pucker", ""),
    ("The chin is pushed upward, bunching the skin.", "Chin Raise", ""),
    ("The smile is absent and the lower lip is drawn down.", "Lower Lip Depress", "Both Lip Corner Pull"),
    ("A tight-lipped expression with flared nostrils.", "Upper Lip Suck, Lower Lip Suck", ""),
    ("The eyes are wide but the brows stay lowered.", "Both Lid Raise, Both Brow Lower", ""),
    ("The lids are slightly lowered over the eyes.", "Both Eye Close", ""),
    ("The mouth is shut and the corners slightly raised.", "Both Lip Corner Pull", "Jaw Drop"),
    ("The lips are sucked inward and the cheeks hollow.", "Upper Lip Suck, Lower Lip Suck", ""),
]


@pytest.mark.parametrize(("sentence", "present", "denied"), SENTENCES)
def test_sentences(sentence, present, denied):
    made = claims(sentence)
    assert {claim.unit for claim in made if claim.present} == _named(present)
    assert _named(denied) <= {claim.unit for claim in made if not claim.present}
    assert all(claim.sentence in sentence for claim in made)


def test_other_units_of_0_are_no_claims_of_the_listed_ones():
    units = _measured(Jaw_Drop=0.4)
    listed = ", ".join(name.lower() for name, intensity in zip(NAMES, units, strict=True) if not intensity)
    for other in ("The intensity of every other action unit is 0:", "**Inactive units:**", "No activation:"):
        found = ground(f"The jaw is moderately dropped. {other} {listed}.", units)
        assert (found.precision, found.unsupported, found.claimed_count) == (1.0, [], 1)
        assert len({claim.unit for claim in found.claims if not claim.present}) == 23


@pytest.mark.parametrize(
    ("sentence", "units"),
    [
        ("The eyebrows are raised, particularly the left.", "Both Brow Raise, Left Brow Raise"),
        ("The lip corners are pulled up, especially on the right side.", "Both Lip Corner Pull, Right Lip Corner Pull"),
        ("Both eyebrows are raised, the left slightly more than the right.", "Both Brow Raise, Left Brow Raise"),
        ("Both eyebrows are raised, and the eyes look to the left.", "Both Brow Raise"),
    ],
)
def test_the_side_that_moves_more_is_claimed_again(sentence, units):
    assert sorted(claim.unit for claim in claims(sentence) if claim.present) == sorted(_places(units))


@pytest.mark.parametrize(
    ("sentence", "denied"),
    [
        (
            "The right lip corner is pulled up while the left remains neutral.",
            ["Left Lip Corner Pull", "Left Lip Corner Stretch"],
        ),
        ("The left brow is raised; the right stays still.", ["Right Brow Raise", "Right Brow Lower"]),
        ("The left brow is raised and the right one is unchanged.", ["Right Brow Raise", "Right Brow Lower"]),
    ],
)
def test_only_the_side_that_stays_still_is_denied(sentence, denied):
    assert [NAMES[claim.unit] for claim in claims(sentence) if not claim.present] == denied


@pytest.mark.parametrize("unit", FEAFA, ids=NAMES)
def test_each_name_of_feafa_claims_its_own_unit_alone(unit):
    assert [(claim.unit, claim.present) for claim in claims(unit.name)] == [(unit.number - 1, True)]
    assert [(claim.unit, claim.present) for claim in claims(f"There is no {unit.name} here.")] == [
        (unit.number - 1, False)
    ]


@pytest.mark.parametrize(
    ("sentence", "word", "low", "high"),
    [
        ("The brows are slightly raised.", "slightly", 0.05, 0.25),
        ("A moderate raise of the brows is seen.", "moderate", 0.25, 0.45),
        ("Marked brow raise.", "marked", 0.45, 0.65),
        ("Strongly raised brows.", "strongly", 0.65, 0.85),
        ("The brows are very strongly raised.", "very strongly", 0.85, 1.0),
        ("The brow raise is extreme.", "extreme", 0.85, 1.0),
        ("The brows are fully raised.", "fully", 0.85, 1.0),
        ("The brows are not fully raised.", "not fully", 0.0, 0.85),
        ("The brow raise is only subtle.", "subtle", 0.05, 0.3),
        ("Both brows show minimal elevation.", "minimal", 0.0, 0.25),
        ("Brow elevation is pronounced.", "pronounced", 0.25, 1.0),
        ("The brows are raised significantly.", "significantly", 0.25, 1.0),
        ("The brows are raised.", None, None, None),
        ("Brow raise: slight", "slight", 0.05, 0.25),
        ("Brow raise – strong, jaw drop – slight", "strong", 0.65, 0.85),
        ("Brow raise (slight, 0.2)", "slight", 0.05, 0.25),
        ("Brow raise: 0.2 (very slight).", "very slight", 0.0, 0.25),
        ("Strong brow raise and slightly raised cheeks.", "strong", 0.65, 0.85),
        ("The brows are raised (0.206 left, slight on the right).", None, None, None),
        ("Brow raise: strong feelings.", None, None, None),
        ("The raised brows clearly point to strong feelings.", None, None, None),
        ("The brows are raised with a slight jaw drop.", None, None, None),
    ],
)
def test_intensities(sentence, word, low, high):
    raised = [claim for claim in claims(sentence) if NAMES[claim.unit].endswith("Brow Raise")]
    assert [(claim.intensity, claim.low, claim.high) for claim in raised] == [(word, low, high)] * 2


def test_the_projects_words_mean_the_projects_ranges():
    low = 0.0
    for bound, word in INTENSITY_WORDS:
        if word != "absent":
            (claim,) = claims(f"The jaw shows a {word} drop.")
            assert (claim.low, claim.high) == (low, min(bound, 1.0))
        low = bound


def test_an_intensity_belongs_to_its_own_movement():
    made = claims("The left brow is strongly raised and the right brow moderately, with a slight jaw drop.")
    assert [(NAMES[claim.unit], claim.intensity) for claim in made] == [
        ("Left Brow Raise", "strongly"),
        ("Jaw Drop", "slight"),
        ("Right Brow Raise", "moderately"),
    ]


def test_either_side_bears_out_what_names_none():
    for sentence in ("One brow is raised.", "A single eyebrow is lifted."):
        assert {claim.unit: claim.alternatives for claim in claims(sentence)} == {6: (7,), 7: (6,)}
        for units in (_measured(Left_Brow_Raise=0.5), _measured(Right_Brow_Raise=0.5)):
            assert ground(sentence, units).precision == 1.0
        assert ground(sentence, _measured()).precision == 0.0
    assert ground("The brows are raised.", _measured(Left_Brow_Raise=0.5)).precision == 0.5
    assert ground("A smile.", _measured(Left_Lip_Corner_Pull=0.5)).precision == 1.0


def test_a_text_that_fits_grounds_perfectly():
    units = _measured(Left_Brow_Lower=0.2, Right_Brow_Lower=0.5, Jaw_Drop=0.9)
    text = "The left brow is slightly lowered and the right brow markedly. The jaw is very strongly dropped. No smile."
    found = ground(text, units)
    assert (found.precision, found.recall, found.f1, found.intensity_agreement) == (1.0, 1.0, 1.0, 1.0)
    assert not (found.side_errors or found.unsupported or found.contradicted or found.missing)
    assert found.unsupported_share == 0.0
    assert (found.supported_count, found.claimed_count, found.active_count) == (3, 3, 3)
    assert found.claims == claims(text)


def test_a_text_that_does_not_fit():
    units = _measured(Left_Brow_Lower=0.4, Nose_Wrinkle=0.6, Jaw_Drop=0.1, Chin_Raise=0.35)
    found = ground("The right brow is lowered, the lips are strongly puckered, and there is no nose wrinkle.", units)
    assert found.side_errors == [NAMES.index("Right Brow Lower")]
    assert found.unsupported == [NAMES.index("Right Brow Lower"), NAMES.index("Lip Pucker")]
    assert found.unsupported_share == 1.0
    assert found.contradicted == [NAMES.index("Nose Wrinkle")]
    assert found.missing == [NAMES.index(name) for name in ("Left Brow Lower", "Chin Raise", "Nose Wrinkle")]
    assert (found.precision, found.recall, found.f1, found.intensity_agreement) == (0.0, 0.0, 0.0, 0.0)


def test_thresholds_and_tolerance():
    units = _measured(Jaw_Drop=0.25 + TOLERANCE - 0.01, Chin_Raise=0.04)
    text = "The jaw is slightly dropped and the chin is raised."
    assert ground(text, units).precision == 0.5
    assert ground(text, units).unsupported == []
    assert ground(text, units, active=0.02).precision == 1.0
    assert ground(text, units).intensity_agreement == 1.0
    assert ground("The jaw is slightly dropped.", _measured(Jaw_Drop=0.4)).intensity_agreement == 0.0
    assert ground("", units).missing == [NAMES.index("Jaw Drop")]
    assert ground("", units, strong=0.5).missing == []


def test_a_hedge_of_what_is_not_there_is_no_error():
    found = ground("The jaw shows minimal drop.", _measured())
    assert (found.precision, found.unsupported, found.claimed_count) == (1.0, [], 0)
    assert found.intensity_agreement == 1.0
    assert ground("The jaw shows minimal drop.", _measured(Jaw_Drop=0.2)).recall == 1.0
    assert ground("The jaw shows minimal drop.", _measured(Jaw_Drop=0.9)).intensity_agreement == 0.0


def test_still_faces_and_empty_texts():
    found = ground("", _measured())
    assert (found.precision, found.recall, found.f1, found.intensity_agreement) == (1.0, 1.0, 1.0, None)
    assert ground("The jaw drops.", _measured()).f1 == 0.0
    assert ground("This is sadness.", _measured(Jaw_Drop=0.5)).f1 == 0.0
    assert claims("") == claims(" \n\n ") == claims("**Conclusion:** The face tells of deep sorrow.") == []


def test_what_is_denied_in_one_place_and_claimed_in_another_counts_as_claimed():
    found = ground("A slight smile lifts the lip corners. This is no true smile.", _measured(Left_Lip_Corner_Pull=0.4))
    assert found.missing == found.contradicted == []


def test_the_mirrored_text_claims_the_mirrored_face(real_texts):
    from explllm.explanations.chain_of_thought import ChainOfThought

    for text, units in real_texts[:100]:
        mirrored = {FEAFA[claim.unit].mirror for claim in claims(text) if claim.present}
        assert {claim.unit for claim in claims(ChainOfThought.parse(text).mirrored().text) if claim.present} == mirrored
        assert ground(text, units).precision == pytest.approx(
            ground(ChainOfThought.parse(text).mirrored().text, mirror_action_units(units)).precision
        )


def test_wrong_action_units():
    with pytest.raises(InputError, match="expected 24 action units, got 2"):
        ground("The jaw drops.", [0.0, 1.0])


def test_no_text_is_slow_or_fails():
    for text in (
        "raised " * 5000,
        "brow and " * 3000 + "raised",
        "no brow, " * 3000,
        "left " * 5000 + "brow",
        "(" * 9000,
    ):
        start = time.process_time()
        claims(text)
        assert time.process_time() - start < 5


def test_real_texts_agree_with_the_intensities_that_they_were_written_from(real_texts):
    found = [ground(text, units) for text, units in real_texts]

    def rates(results):
        """Return the precision and the recall of the claimed units."""
        claimed, active = sum(one.claimed_count for one in results), sum(one.active_count for one in results)
        recalled = sum(one.recall * one.active_count for one in results)
        return sum(one.supported_count for one in results) / claimed, recalled / active

    precision, recall = rates(found)
    assert precision >= 0.92 and recall >= 0.79  # measured: 0.926 and 0.790 of the units of at least 0.05
    # The lexicon was made with the first 400. Measured on the others: 0.930 and 0.781.
    precision, recall = rates(found[400:])
    assert precision >= 0.92 and recall >= 0.77
    strong = sum(intensity >= STRONG for _, units in real_texts for intensity in units)
    assert sum(len(one.missing) for one in found) <= 0.09 * strong  # recall of the units of at least 0.3: 0.915
    assert sum(len(one.side_errors) for one in found) < 0.05 * len(found)
    agreements = [one.intensity_agreement for one in found if one.intensity_agreement is not None]
    assert sum(agreements) / len(agreements) > 0.8


def test_real_texts_disagree_with_the_intensities_of_other_faces(real_texts):
    own = [ground(text, units).f1 for text, units in real_texts]
    others = [
        ground(text, units).f1
        for (text, _), (_, units) in zip(real_texts, real_texts[1:] + real_texts[:1], strict=True)
    ]
    assert sum(own) / len(own) > sum(others) / len(others) + 0.2


def _with_unknown(*names: str, **intensities: float) -> list[float | None]:
    return [None if name in names else value for name, value in zip(NAMES, _measured(**intensities), strict=True)]


def test_a_unit_that_was_not_measured_counts_nowhere():
    text = "The jaw drops slightly and the nose is strongly wrinkled."
    assert ground(text, _measured(Jaw_Drop=0.2)).unsupported == [NAMES.index("Nose Wrinkle")]
    found = ground(text, _with_unknown("Nose Wrinkle", Jaw_Drop=0.2))
    assert (found.precision, found.recall, found.intensity_agreement) == (1.0, 1.0, 1.0)
    assert (found.unsupported, found.missing, found.claimed_count, found.active_count) == ([], [], 1, 1)
    assert len(found.claims) == 2


def test_what_an_unknown_side_may_bear_out_is_not_held_against_a_text():
    left, right = "Left Lip Corner Pull", "Right Lip Corner Pull"
    assert ground("A smile.", _with_unknown(left)).unsupported == []
    assert ground("A smile.", _with_unknown(left, Right_Lip_Corner_Pull=0.5)).precision == 1.0
    assert ground("A strong smile.", _with_unknown(left, Right_Lip_Corner_Pull=0.75)).intensity_agreement == 1.0
    assert ground("A strong smile.", _with_unknown(left)).intensity_agreement is None
    only_left = "The left lip corner is pulled up."
    assert ground(only_left, _measured(Right_Lip_Corner_Pull=0.5)).side_errors == [NAMES.index(left)]
    assert ground(only_left, _with_unknown(left, Right_Lip_Corner_Pull=0.5)).side_errors == []
    assert ground(only_left, _with_unknown(right)).unsupported == [NAMES.index(left)]
    with pytest.raises(InputError):
        ground("The jaw drops.", [None, 1.0])
