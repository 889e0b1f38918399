"""Words and patterns of scope: attitudes to a clause, and statements about something other than this face.

This module contains only data for `explllm.explanations.scope`. The patterns match lowercase words and punctuation
marks separated by single spaces.
"""

from __future__ import annotations

import re

from explllm.core.expressions import SYNONYMS
from explllm.explanations.lexicon import TABLE, forms

BREAK = ";"
"""The token that replaces a phrase that introduces a clause."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _verbs(text: str) -> frozenset[str]:
    return frozenset(form for verb in text.split() for form in forms(verb))


DETERMINER = (
    r"(?:the|a|an|any|this|these|those|that|his|her|their|its|both|one|either|each|no|only|there|it|he|she|they|them"
    r"|you"
    r"|we|someone|left|right)"
)
MODAL = r"(?:could|can|would|will|should|might|may|must)"
EVIDENCE = r"(?:evidence|signs?|indications?|traces?|hints?|suggestion|proof|reason|suspicion|clues?)"

# Frames: the words that introduce a clause, as in "nobody could deny that". ---------------------------------------------

DOUBTING = _verbs(
    "deny doubt dispute question contest refute disprove reject overlook miss ignore dismiss disagree escape"
)
SAYING = _verbs(
    "say claim argue state conclude maintain assert believe report think tell pretend insist allege suppose assume "
    "imagine expect guess suspect presume declare consider postulate speculate contend swear hope wish wonder fear "
    "mention write propose predict interpret infer call describe speak talk fancy take"
) | _words("said thought told wrote written held spoke took")
SPEAKING = _verbs("speak talk")
SEEING = _verbs(
    "see find observe notice note know understand recognize admit concede detect spot "
    "attest agree accept acknowledge discern make"
) | _words("saw seen found shown known made")
SHOWING = _verbs("show indicate imply reveal support suggest mean prove demonstrate confirm establish")
"""Verbs that introduce a clause only with "that": elsewhere they are verbs of the description itself."""
CONVICTIONS = _words("sure certain confident adamant positive convinced persuaded opinion impression")
"""Adjectives and nouns that introduce what somebody believes."""
NEGATIVE = DOUBTING | _words(
    "not no nobody none nothing nowhere never neither nor without hardly scarcely barely little few zero rarely "
    "seldom untrue "
    "false falsely incorrect incorrectly inaccurate wrong wrongly mistaken mistakenly erroneous erroneously unlikely "
    "improbable implausible inconceivable impossible unreasonable unjustified unwarranted unfounded unsupported "
    "dishonest untenable unconvincing misleading absurd nonsense baseless groundless foolish hard difficult "
    "premature mistake "
    "error lie myth falls breaks dissolves evaporates illusion fiction fabrication exaggeration misreading "
    "misconception fail fails failed lack lacks lacking "
    "absence collapses crumbles short refuse refuses contradicts invented artifact anything doubtful questionable"
)
CLAUSE_HEADS = (
    CONVICTIONS
    | NEGATIVE
    | _words(
        "true untrue correct incorrect right wrong accurate inaccurate false mistaken certain sure clear plain evident "
        "obvious "
        "undeniable likely unlikely possible impossible probable improbable plausible implausible conceivable "
        "inconceivable "
        "imaginable thinkable doubtful questionable apparent uncertain unclear case fact way chance danger possibility "
        "proof "
        "denying mistaking evidence sign signs indication indications trace hint hints reason clue clues suspicion "
        "suggestion claim idea notion statement assertion impression belief assumption view hypothesis theory rumor rumour "
        "allegation conclusion reading nothing not grounds basis room be pretense denying avoiding"
    )
)
"""Nouns and adjectives that introduce a clause with "that"."""
OPEN = _verbs("suppose imagine assume expect guess hope wish wonder suspect presume pretend speculate") | _words(
    "if whether unclear uncertain unknown debatable perhaps maybe possible possibly conceivable conceivably imaginable "
    "thinkable probable probably plausible plausibly allegedly supposedly likely chance possibility danger rumor "
    "rumour tempting"
)
POSITIVE = _words("fair right correct accurate safe reasonable justified natural tempting easy possible true honest")
MODALS = _words("might may could would should d")
OWN_VOICE = _words(
    "i we one you it there everyone everybody anyone image picture photo photograph face expression "
    "feature features analysis data evidence measurement measurements estimate estimates value values intensity "
    "intensities "
    "unit units observation observations finding findings cue cues"
)
"""Subjects whose statements are the text's own: "one can see that", "the image shows that"."""
TRUE = _words(
    "true correct right accurate certain clear plain evident obvious undeniable holds beyond fact stands confirmed"
)
FINITE = _words(
    "is are was were does do did has have had can could would will may might seems seem remains remain proves turns "
    "finds "
    "lacks rests makes collapses crumbles fails falls breaks dissolves evaporates holds stands contradicts misses "
    "deserves"
)
CLAIM_START = re.compile(
    r"(?:and |so |thus )?(?:(?:the|a|any|this|every|no|his|her|their|such) (?:\w+ )?(?:claim|idea|notion|suggestion"
    r"|statement"
    r"|assertion|impression|belief|assumption|view|hypothesis|theory|rumou?r|allegation|conclusion|reading"
    r"|fact) )?that $"
)
FALSE = (
    r"(?:not (?:\w+ly )?(?:true|correct|right|accurate|the case|so|supported|justified|plausible|tenable|borne out)"
    r"|false|untrue|incorrect|wrong|mistaken|inaccurate|unfounded|baseless|erroneous|a mistake|an error|a lie"
    r"|unsupported|not (?:a|an) (?:\w+ )?(?:true|correct|accurate) \w+)"
)
TAKEN_BACK = re.compile(
    rf" (?:(?:[,;] )?(?:which|this|that|is|and it|(?:but|and) (?:this|that|it)) (?:(?:is"
    rf"|was) )?(?:\w+ly )?{FALSE}(?= [;,]| ?$)"
    r"|(?:, )?(?:but|yet|although|though|however|;|and)(?: ,)?(?: in fact| actually| in reality| really)?"
    r"(?: it| they| this| that| he| she)? (?:(?:is|are|does|do|did|was|were|has|have|will) not"
    r"|(?:is|are|was|were) (?:only|just|merely|simply|really|actually|nothing but|no more than) (?:an?|the|due)\b[^,;]*"
    r"|(?:stays?|remains?) (?:where|as) (?:it|they) (?:is|are|was|were))(?= [;,]| ?$))"
)
"""A remark that denies the clause before it: "..., which is false", "..., but they are not"."""
UNCERTAIN = re.compile(
    r" (?:(?:hard|difficult|impossible|not easy) to (?:tell|say|know|judge|decide|make out)|(?:can"
    r"|could) not (?:tell|know|be sure)"
    r"|(?:un(?:clear|certain|known)|debatable|doubtful|not (?:sure|certain|clear|known)|an open question))\b"
    rf"|^ (?:and |but )?(?:perhaps|maybe|possibly|conceivably) (?={DETERMINER}\b)"
)
QUOTED_SOURCE = re.compile(
    r" (?:according to (?!(?:the |its |all |these |those |this )?(?:\w+ )?(?:action|measure\w*|intensit\w*|data"
    r"|values?|units?"
    r"|analysis|facs|estimat\w*))|allegedly|supposedly|reportedly|purportedly|ostensibly|(?:was|were) told)\b"
)

# Phrases replaced by simpler ones. The order matters: longer phrases and double negations come first.
_ABSENT = "is absent"
REWRITES = [
    # Clefts: "what rises is the chin", "the brow that is raised is the left one".
    (
        r"what ((?:is |are )?(?:rises|raised|lifted|lowered|drops|dropped|opens|opened|open|closes|closed|moves"
        r"|widens|widened"
        r"|wrinkled|wrinkles|stretched|puckered|pulled \w+|goes up|goes down)) (?:is|are) ((?:\w+ )*\w+)",
        r"\2 \1",
    ),
    (r"the (\w+(?: corner)?) that ((?:is|are|has|shows) [^,;]+?) is the (left|right)(?: one)?", r"the \3 \1 \2"),
    (
        r"what (?:looks like|seems|seem|appears|appear|resembles|might be|may be|could be|passes for|one takes for"
        r"|was once|used to be|had been|was)[^;]*?(?= (?:is|are"
        r"|turns|proves)\b)",
        "it",
    ),
    (
        r"the (left|right) (?:(?:and|but) not|rather than|as opposed to|instead of) the (?:left|right) ((?:lip "
        r"|mouth )?\w+)"
        r"(?= (?:is|are|shows|has))",
        r"the \1 \2",
    ),
    (r"less (an? \w+) than (an? \w+)", r"not \1 but \2"),
    (r"not so much ([^,;]+?) as", r"not \1 but"),
    (r"(?:there is )?nothing to (?:be )?(?:see|seen|found)", "is absent"),
    (
        r"(?:missing|absent|lacking)(?: (?:from|in) [^,;]*?)? (?:is|are)(?= (?:the|any|a|an|his|her"
        r"|all))",
        "there is an absence of",
    ),
    (r"not as (?:if|though)", "not that"),
    (r"no (?:getting|way|going) (?:around|past|round)", "no denying"),
    (
        r"(?:does|do|did) not (?:even )?(?:try|bother|attempt|seek|need|want|care) to (?:hide|conceal|suppress|mask)",
        "shows",
    ),
    # Implicative verbs.
    (
        r"(?:keeps?|kept|keeping|prevents?|prevented|stops?|stopped) ((?:(?:his|her|their|the"
        r"|both) )?(?:\w+ ){1,2})from",
        r"\1not",
    ),
    (r"less (\w+ed|wide|open|shut) than(?= (?:\w+ed|wide|open|shut)\b)", r"not \1 but"),
    (r"one (\w+|lip corner|corner of the mouth) , the (left|right)(?: one)? ,", r"the \2 \1"),
    (r"(?:makes?|made|making|with) no (?:attempt|effort) to (?:hide|conceal|suppress|mask)", "shows"),
    (
        r"(?:resist|fight|curb|control|suppress|overcome)(?:s|es|ed|ing)?(?: back)? (?:the|an|any|every|his"
        r"|her) (?:urge|impulse|temptation"
        r"|need|desire|wish) to",
        "not",
    ),
    (
        r"(?:holds?|held|holding|keeps?|kept|fights?|bites?|chokes?|swallows?) back(?= (?:a|an|any|the|his|her"
        r"|their) (?:\w+ )?(?:smiles?|grins?"
        r"|frowns?|smirks?|sneers?)\b)",
        "shows no",
    ),
    (
        r"(?:(?:is|are|seems?|looks?) )?(?:threatens?|about|likely|ready|bound|going|due|set|poised"
        r"|expected) to (?:appear|form|emerge|surface"
        r"|follow|break (?:out|through))",
        "is absent",
    ),
    (
        r"(?:false|misleading|wrong|mistaken|illusory|fake|deceptive|mere|only the) (?:impression|appearance"
        r"|illusion|suggestion|hint|look)"
        r" of|(?:illusion|semblance|mirage) of",
        "no",
    ),
    # Movements that have ended or that do not quite happen.
    (
        r"(?:(?:has|have|had) )?(?:\w+ly )?(?:stop|stops|stopped|quit|quits|cease|ceases|ceased|finished|given up"
        r"|gave up|gives up)"
        r"(?= (?!short)\w+ing)",
        "not",
    ),
    (
        r"(?:(?:has|have|had|is|are) )?(?:\w+ly )?(?:faded|fades|vanished|vanishes|disappeared|disappears|gone"
        r"|subsided|dissolved|worn off"
        r"|evaporated|passed)(?: (?:away|completely|entirely|altogether))?(?= (?:from|now|by|already|again)| ?[,;]"
        r"| ?$)",
        _ABSENT,
    ),
    (r"(?:gives|gave|giving|given) way to", f"is absent {BREAK} there is"),
    (
        r"(?:almost|nearly|virtually|practically)(?= (?:rises?|smiles?|lifts?|drops?|close|closes|widens?|wrinkles?"
        r"|puckers?|opens"
        r"|frowns?)\b)",
        "not",
    ),
    (r"(?:hardly|scarcely|barely) (?:a|an|any) (?:\w+ )?(?:trace|hint|sign|suggestion|indication)s? of", "no"),
    (r"(?:hardly|scarcely|barely) (?:any|at all)", "no"),
    (r"(?:hardly|scarcely)(?= (?:be )?\w+(?:ed|en|s|sh|t|ing|led)?)", "not"),
    (
        r"(?:mistake|mistakes|mistook|mistaken|take|takes|took|taken|confuse|confused|misread"
        r"|misreads) ([^,;]{1,40}?) (?:for|as|with)"
        r"(?= (?:a|an|the)?)",
        "call it",
    ),
    (r"not (?:\w+ly )?fail(?:s|ed)? to|never (?:once )?fail(?:s|ed)? to|(?:can|could) not fail to|without fail", ""),
    (r"(?:can|could) not (?:help but|but|help)", ""),
    (r"(?:not|never|hardly|scarcely) without|no (?:lack|shortage|absence|want) of", "with"),
    (r"nothing (?:but|other than|except(?: for)?|besides|apart from|save)|none (?:but|other than)", "only"),
    (r"(?:no|any|without any) other \w+ than|(?:other than|except(?: for)?|apart from|aside from|save for)", BREAK),
    (r"not (?:only|just|merely|simply) ([^,;]{1,60}?) but(?: also| even| rather)?", r"\1 and"),
    (r"not (?:only|just|merely|simply)", "only"),
    (r"not (?:least|surprisingly|unexpectedly|unlike|to mention)", ""),
    (r"no (?:surprise|wonder)(?: \w+)? that", BREAK),
    (r"(?:anything|everything|all) but", "not"),
    (r"nor that", "and that"),
    (
        r"(?:(?:but|yet|though) )?(?:this |that |it )?is (?:\w+ )?(?:a|an) (?:\w+ )?(?:myth|illusion|fiction"
        r"|invention|fabrication|artifact)(?: of \w+(?: \w+)?)?(?! that)|(?:is|are)"
        r" imaginary",
        "is absent",
    ),
    (r"(?:alleged|supposed|so called|seeming|apparent|imaginary|imagined|hypothetical|anticipated) \w+", "thing"),
    (
        r"nothing (?:about|in|on|of|else) (?:\w+ ){1,4}(?:suggests|indicates|shows|reveals|implies|points to"
        r"|hints at)(?! that)",
        "no",
    ),
    (r"den(?:y|ies|ied|ying) (?:any|all)", "without"),
    (
        r"by no means|in no (?:way|sense|respect|manner)|at no (?:point|time|moment|stage)"
        r"|under no circumstances",
        "not",
    ),
    (
        r"on no account|nowhere near|not in the least|not in any way|no longer|not yet|not any longer|not remotely",
        "not",
    ),
    (r"never (?:ever|once)|hardly ever|scarcely ever|not at all|not ever", "not"),
    (r"fail(?:s|ed|ing)? to|refus(?:e|es|ed|ing) to|declin(?:e|es|ed|ing) to|neglect(?:s|ed|ing)? to", "not"),
    (r"forg[eo]t(?:s|ten|ting)? to", "not"),
    (r"omit(?:s|ted|ting)? to|ceas(?:e|es|ed|ing) to|unable to|incapable of|reluctant to|unwilling to", "not"),
    (r"stop(?:s|ped|ping)? short of|refrain(?:s|ed|ing)? from|abstain(?:s|ed|ing)? from|keeps? from", "without"),
    (r"avoid(?:s|ed|ing)?|prevented from|kept from|without so much as", "without"),
    (r"too \w+(?: \w+)?(?= (?:to|for)\b)", "not"),
    (r"(?:count|counts|qualify|qualifies|pass|passes|be (?:called|described|considered|regarded)) as", "be"),
    (
        r"(?:can|could)(?: not| never) be (?:seen|observed|found|detected|made out|spotted|identified"
        r"|noticed)",
        "absent",
    ),
    (
        r"(?:not|never) to be (?:seen|found|observed)|nowhere (?:to be (?:seen|found|observed)|in sight|visible)",
        "absent",
    ),
    (r"out of the question|ruled out|excluded", "absent"),
    (r"(?:does|do|did) (?:not|never) (?:occur|exist|happen|arise|take place|materiali[sz]e)", "is absent"),
    (r"(?:(?:does|do|did) not|never) (?:appears?|appeared|shows?|showed|emerges?)(?= ?(?:$|[,;]))", "is absent"),
    (rf"(?:no|little|zero|not any|never any|hardly any) {EVIDENCE} (?:whatsoever |at all )?(?:of|for)", "no"),
    (r"free (?:from|of) (?:any|all)", "without"),
    # What a side is contrasted or compared with is not claimed.
    (
        r",? ?(?:and |but )?(?:certainly |clearly )?not (?:on |in |of )?the (?:left|right)(?: \w+){0,2}(?: ?,"
        r"|(?= ?(?:$|;)))",
        "",
    ),
    (
        r"(?:rather than|as opposed to|instead of|and not|but not) the (?:left|right)(?: \w+){0,2}(?= (?:is|are"
        r"|shows|has))",
        "",
    ),
    (r"(?:and|but) not the (?:left|right)(?= \w+)", ""),
    (r"lower than(?= (?:the|his|her|their|its) (?:left|right|other|opposite|counterpart|one)\b)", "beneath"),
]
PLACE_NEAR = (
    r"(?:next to|beside|besides|behind|(?:in|on) (?:his|her|their) (?:arms?|lap|shoulders|back)|around (?:him|her"
    r"|them)|in front of|near|nearby|alongside|opposite|to (?:the|his|her"
    r"|their) (?:left|right)"
    r"|on the (?:other|far) side|on the (?:left|right)|in the (?:middle|center|centre|(?:front|back|first"
    r"|second) row|background|back|crowd|distance|mirror|poster|painting|audience)"
    r"|at the back|across from|standing|sitting|seated|walking|over there|further back|on the (?:poster|wall"
    r"|screen|cover))"
)
HUMAN = (
    r"(?:man|woman|person|boy|girl|child|baby|lady|guy|figure|face|individual|someone|somebody|friend|colleague|kid"
    r"|toddler|teenager"
    r"|player|men|women|people|children|faces|persons|actor|actress|model|student)"
)
RELATIVE = (
    r"(?:friend|brother|sister|mother|father|wife|husband|colleague|neighbou?r|companion|partner|twin|son"
    r"|daughter|parent"
    r"|teammate|rival|opponent|cousin|uncle|aunt|teacher|classmate|bystander|onlooker|passer by|stranger|crowd"
    r"|audience|dog|cat|doll|statue|cartoon|photographer|interviewer|spectator)s?"
)
OTHER_PEOPLE = re.compile(
    rf" (?:{HUMAN} (?:who (?:is|stands|sits) )?{PLACE_NEAR}|(?:an ?other|the other|other|the second|the next"
    rf"|a second|neighbou?ring|adjacent|different|every other|all other|most other|some other) (?:\w+ )?{HUMAN}"
    rf"|(?:someone|somebody|everyone|everybody|anyone|anybody|no one|nobody) else"
    rf"|(?:{PLACE_NEAR} (?:him|her|them|this (?:\w+)|the (?:person|subject|man|woman|boy|girl|child))|to (?:his|her"
    rf"|their|the)"
    rf" (?:left|right)|in the (?:background|back|distance|foreground|corner))(?: ,)?"
    r"(?: (?:stands?|sits?|walks?|is|are|appears?|waits?))? (?:someone|somebody|an?(?! (?:\w+ )?(?:smile|grin"
    r"|frown))|another|two|some)"
    rf"|(?:his|her|their|a|an|the|this person|the person|some) (?:\w+ )?{RELATIVE}|the others)\b"
)
PICTURE = (
    r"(?:photo|photograph|picture|image|frame|shot|snapshot|clip|video|scene|session|portrait|take|moment|frames)s?"
)
_OWN_PICTURE = (
    r"(?:present|current|given|same|provided|above|shown|single|still|final|close|up|cropped|gr[ae]y|scale"
    r"|gr[ae]yscale|colou?r"
    r"|coloured|colored|black|and|white|uploaded|attached|facial|input|static|entire|whole|blurry|sharp|small|large"
    r"|low|high"
    r"|quality|resolution|photographic|frontal|test)"
)
_STILL_PICTURE = (
    r"(?:photo|photograph|picture|image|frame|shot|snapshot|clip|video|footage|portrait|selfie|still|screenshot)s?"
)
_OTHER_IMAGES = (
    r"(?:poster|billboard|painting|drawing|cartoon|sketch|statue|magazine|book|cover|television|tv|screen|wall|mural"
    r"|logo|sticker"
    r"|mask|t shirt|shirt|diagram|manual|guide|textbook|handbook|literature|catalog(?:ue)?|film|movie|novel|dream"
    r"|mirror"
    r"|caricature|theory|legend|comic)s?"
)
OTHER_TIMES = re.compile(
    rf" (?:(?:in|on|at|from|throughout|during|for) (?:the|a|an|his|her|their|one|some|most|many|all|several|other)"
    rf" (?:(?!{_OWN_PICTURE}\b)\w+ ){{1,2}}{_STILL_PICTURE}"
    rf"|(?:in|on|from|inside) (?:the|a|an|his|her|their|some|most|many|all) (?:\w+ ){{0,2}}{_OTHER_IMAGES}"
    rf"|(?:previous|earlier|prior|last|next|following|other|an ?other|different|second|old|older|former|later"
    rf"|preceding|subsequent|first) {PICTURE}"
    r"|(?:\w+ )?(?:frames?|pictures?|shots?|seconds?|moments?|minutes?|hours?|days?|weeks?|years?|months?"
    r"|while) (?:ago|earlier|before"
    r"|later|after)"
    r"|(?<!noted )(?<!mentioned )(?<!described )(?<!seen )(?<!than )(?<!as )(?:earlier|previously|formerly)"
    r"|when (?:\w+ ){1,4}(?:younger|a child|small|older)|(?:since|before|after|until) (?:they|it|he|she) (?:was"
    r"|were|had)"
    r"|(?:picture|photo|photograph|image) (?:to the (?:left|right)|above|below)"
    r"|yesterday|tomorrow|last (?:week|year|month|time|night|summer|winter)|in the (?:past|future)|at one time"
    r"|used to|the day before|before (?:the|this) \w+ was|as a child|in childhood|until recently|(?<!than )(?<!as )soon"
    r"|(?:has|have|had) been \w+ before|had been|is going to|are going to|(?:will|shall)(?! to)|once (?:was|were)"
    r"|back then|(?:shortly|just|long|right|immediately) (?:before|after)(?:wards?)?(?= ?(?:$|[,;]))|beforehand"
    r"|afterwards"
    r"|as an? (?:\w+ )?(?:baby|boy|girl|teenager|toddler|infant|youth|student)"
    r"|at the (?:beginning|start|end|outset) of|(?:during|throughout) [^,;]{1,40}? (?:was|were|had)"
    r"|(?<=^ )(?:when|as soon as) [^,;]*?\b(?:was|were|had|did|\w+ed)\b[^,;]*(?= ,)|once upon a time|until (?:now"
    r"|then|recently|just now)"
    r"|(?<=^ )(?:before|after|until|prior to|since) (?!all\b)[^,;]{1,40}(?= ,)"
    rf"|(?:in|on|from) (?:the|a|an|his|her) {_STILL_PICTURE} (?:taken|made|shot|painted|drawn|from|of|by|before"
    rf"|after|(?:that|which) (?:was|were|follows|follow|precedes|came|comes))"
    r"|in those days|the other day|before (?:the|this) (?:photo|photograph|picture|shot|image))\b"
)
GENERAL_PEOPLE = re.compile(
    r"^(?:(?!(?:at|to|by|with|like|from|for|of|as|he|she|they|it|the|this)\b)\w+ ){0,3}(?:people|persons|humans"
    r"|individuals|someone|anyone|somebody|anybody|others|everyone|everybody"
    r"|most of us|strangers|babies|infants|adults|actors|viewers|children|kids|toddlers|men|women|teenagers"
    r"|students)(?! (?:can|could) (?:see|tell))\b(?=.* \w)"
    r"|^(?:(?:other|most|many|angry|sad|happy|fearful|surprised|human|typical|some|all|such|several) ){1,2}faces\b"
    r"|^(?:a|an|the) (?:\w+ )?(?:typical|textbook|prototypical|classic|classical|standard|average|usual|generic)"
    r" (?:\w+ ){0,2}(?:face|expression|display|smile|example|case|image|person|man|woman)\b"
    r"|^(?:a|an) (?:angry|sad|happy|fearful|surprised|disgusted|scared|afraid|frightened) (?:person|man"
    r"|woman|child)(?= (?!with|is|in|looking)\w)"
    r"|^(?:in|among|for) (?:\w+ )?(?:people|persons|humans|faces|individuals|adults|cases)\b"
    r"|^(?:typically|usually|normally|generally|in general|as a rule|commonly|traditionally|ordinarily|often)\b"
    r"|\b(?:is|are) (?:\w+ly )?(?:defined|coded|scored|termed|known) (?:as|in terms of|by the)\b"
    r"|^(?:in )?(?:facs|emfacs|feafa|ekman|textbooks?|the (?:textbook|literature|manual))\b"
)
EMOTION = r"(?:surprise|anger|fear|sadness|disgust|happiness|joy|contempt|neutrality|emotion|rage|grief|terror|joy)"
HABIT = (
    r"(?:typically|usually|often|normally|generally|commonly|always|frequently|tends? to|involves?|requires?"
    r"|features?"
    r"|needs?|would|calls? for|comes? with|goes? with|is (?:\w+ly )?(?:marked|shown|signaled|signalled|accompanied"
    r"|characteri[sz]ed|associated|expressed|displayed)|raises|lowers|widens|wrinkles|makes)"
)
GENERAL_EMOTION = re.compile(
    rf"^(?:(?:\w+ly|true|genuine|real|pure|strong|in|with|for) ){{0,2}}(?:, )?(?:\w+ )?{EMOTION} (?:\w+ )?{HABIT}\b"
)
HYPOTHETICAL_START = re.compile(
    rf"^(?:imagine|suppose|supposing|picture|consider|assume|assuming|pretend|think of|visuali[sz]e|let us|lets"
    rf"|say that|were {DETERMINER}|had {DETERMINER}|should {DETERMINER}|what if|if only|unless|in case|provided that"
    r"|let (?:the|his|her|their|both)|i wish|we wish|one wishes)\b"
)
IF = re.compile(
    rf" (?<!as )(?<!even )(?:if|unless|(?:provided|providing|assuming|granted|supposing|on condition"
    rf"|in the event)(?: that)?|in case"
    rf"|in (?:the|a) case (?:that|where)|as long as|only if|even if|whether or not|whether|(?<=, )were"
    rf"|(?<=, )had) (?:(?:only|instead|now|ever) )?"
    rf"(?:{DETERMINER}|there|it|he|she|they|you|we|someone|left|right|brows|eyes|lips|eyebrows)\b(?! all)"
)
AS_IF = re.compile(r" (?:as if|as though|like someone|like a person|almost like)\b")
_MOVE = (
    r"(?:open|close|raise|rise|lift|drop|smile|grin|frown|wrinkle|pucker|purse|widen|lower|stretch|pull|curl|blink"
    r"|squint|wink"
    r"|move|puff)\b"
)
MODAL_VERB = re.compile(
    rf" (?P<modal>would|could|might|may|should|d|must(?= have)"
    rf"|can(?= (?:\w+ )?{_MOVE}))\b(?P<skipped>(?: (?:(?!imply)\w+ly|also|well|still|even"
    r"|not))*) (?P<verb>\w+)"
)
AUXILIARIES = _words(
    "be been being have has get become stay remain seem look appear not well also even still then just very quite"
)
EXISTENCE = _words(
    "present visible there absent missing expected needed required happen occur exist come follow result arise"
)
"""Predicates about whether a movement takes place. With these and with verbs of movement a modal verb concerns the subject:
"the brows might be raised", but "the raised brows might suggest surprise"."""
INDEFINITE = re.compile(
    r"^(?:(?:and|or|also|here|then) )?(?:a|an|any|such|more|stronger|no|[a-z]+ed|[a-z]+er|wide|open)\b"
)
EXPECTATION = re.compile(
    rf" (?:one|you|we|anyone|someone|observers?|people|i|viewers?)(?: (?:{MODAL}|d))?(?: \w+ly)?"
    r" (?:expect|expects|expected|think|assume|imagine|suppose|guess|anticipate|predict|hope|want|wish|need"
    r"|look for)\b"
    r"| (?:it )?(?:is|are|was|were|would be)(?: to be)? (?:normally |usually )?(?:expected|anticipated|supposed)\b"
    r"| it (?:would|might|could) be (?:natural|normal|easy|tempting|typical|usual)\b"
)
INTENTION = re.compile(
    r" (?:about to|ready to|going to|want(?:s|ed|ing)? to|wish(?:es|ed)? to|on the (?:verge|point|brink) of"
    r"|threaten(?:s|ed|ing)? to|hop(?:e|es|ed|ing) to|supposed to|meant to|prepar(?:es|ed|ing) to"
    r"|(?:ask|tell|instruct|order|encourage|invite|urge|require|train|teach)(?:s|ed)? (?:\w+ ){1,3}to|(?:told"
    r"|taught) (?:\w+ ){0,3}to"
    r"|(?:is|are|was|were) (?:\w+ly )?(?:said|claimed|reported|alleged|rumou?red|believed|thought|assumed|reputed|known"
    r"|likely|unlikely) to"
    r"|struggl(?:es|ed|ing) to|striv(?:es|ing) to|seek(?:s|ing)? to|long(?:s|ed|ing)? to|endeavou?rs? to"
    r"|(?:asked|instructed|ordered|encouraged|invited|urged|required|trained) to|try(?:ing)? to|tries to|tried to"
    r"|attempt(?:s|ed|ing) to|intend(?:s|ed|ing)? to"
    r"|(?:seems?|appears?|looks?) likely to|plan(?:s|ned|ning)? to)\b(?! (?:suppress|hide|hold|conceal|mask"
    r"|contain))"
)
COMPARED = re.compile(
    r" (?:(?<!rather )(?<!other )than|as against|versus|(?:by|in) contrast with|as distinct from"
    r"|as distinguished from)\b"
)
STANDARD = re.compile(
    r"(?:^|\b)(?:unlike|compared|in contrast|contrary|as opposed|relative|similar|than|just as|as in|as)\b[^,;]*$"
)

CONTRAST = frozenset(("but", "yet", "however", "whereas", "instead", "nevertheless", "nonetheless", BREAK))
BOUNDARIES = CONTRAST | {",", ":", "(", ")", "although", "though", "because", "since", "while", "which"}
RETURNS = frozenset(("this", "these", "here", "now", "subject", "today", "currently", "own", "she", "he", "present"))
PRONOUNS = frozenset(("she", "he", "own"))
PAST = frozenset(("was", "were", "had", "did", "would"))


REWRITTEN = [(re.compile(rf" (?:{pattern})(?= )"), f" {plain}") for pattern, plain in REWRITES]


def _starts_object() -> frozenset[str]:
    kinds = ("part", "action", "side", "grade", "filler")
    words = {word for word, entries in TABLE.items() for rest, (kind, _) in entries if not rest and kind in kinds}
    return (
        frozenset(words - {"open", "look", "part"})
        | frozenset(SYNONYMS)
        | _words("there they them it these those such")
    )


OBJECT_START = _starts_object()
"""First words of a clause or noun phrase about the face."""
FACE = frozenset(
    word
    for word, entries in TABLE.items()
    for rest, (kind, value) in entries
    if not rest and ((kind == "part" and value != "none") or value in ("smile", "frown"))
)
"""Parts of the face. Words before a clause that name one are a statement of their own."""
MOVEMENTS = frozenset(
    word
    for word, entries in TABLE.items()
    for rest, (kind, _) in entries
    if not rest and kind in ("action", "direction", "grade", "side")
) - _words("point lead in out part clear evident high strong")
LATER = _words("later soon at in any on again next when after , ;")
