"""The words that ages are read by: numbers, people, and what a number may be of that is no age."""

import re2

_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_ROMAN = {"xi": 11, "xii": 12, "xiii": 13, "xiv": 14, "xv": 15, "xvi": 16, "xvii": 17, "xviii": 18}
_TEEN = r"(?:th[i1!]r|f[o0]ur|f[i1!]f|s[i1!]x|s[e3]v[e3]n|e[i1!]gh|n[i1!]n[e3])[\s*_.-]?t[e3][e3]n"
_LEET = str.maketrans("013!", "oiei")
NUMBER = (
    rf"(?:\d{{1,3}}(?:,\d{{3}})+|\d{{1,3}}(?:[.,]\d{{1,2}})?|1\s[0-9]|(?:hundred\s+(?:and\s+)?)?(?:{_TEEN}|ten|eleven"
    rf"|twelve|(?:{_TENS})(?:[\s-]+(?:{'|'.join(_ONES)}))?|{'|'.join(_ONES)})|hundred|{'|'.join(reversed(_ROMAN))})"
)
_ORDINAL_WORDS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth"
    " sixteenth seventeenth eighteenth"
)
_ORDINALS = _ORDINAL_WORDS.split()
ORDINAL = rf"(?:\d{{1,3}}(?:st|nd|rd|th)|(?:(?:{_TENS})[\s-]+)?(?:{'|'.join(reversed(_ORDINALS))}))"
_ABROAD = {
    13: "trece treize dreizehn tredici treze dertien",
    14: "catorce quatorze vierzehn quattordici catorze veertien",
    15: "quince quinze funfzehn fuenfzehn quindici vijftien",
    16: "dieciseis seize sechzehn sedici dezesseis zestien",
    17: "diecisiete dix-sept siebzehn diciassette dezessete zeventien",
}
_HAN = "一二三四五六七八九"
_VALUES: dict[str, float] = {
    **{word: value for value, word in enumerate(_ONES, 1)},
    **{word: value for value, word in enumerate(_ORDINALS, 1)},
    **_ROMAN,
    **{word: age for age, words in _ABROAD.items() for word in words.split()},
    **{digit: value for value, digit in enumerate(_HAN, 1)},
    **{f"十{digit}": value for value, digit in enumerate(_HAN, 11)},
    **{"ten": 10, "eleven": 11, "twelve": 12, "十": 10},
    **{f"{start}teen": 13 + at for at, start in enumerate(["thir", "four", "fif", "six", "seven", "eigh", "nine"])},
}
OVER_TWENTY = 20.0
"""What a number in words that is not listed comes to: it is twenty at least."""


def number(said: str) -> float:
    """The value of a number as the patterns find it."""
    digits = said.rstrip("stndrh").replace(" ", "")
    if digits[:1].isdigit():
        whole, _, rest = digits.partition(",")
        return float(whole + rest) if len(rest) >= 3 else float(digits.replace(",", "."))
    return _VALUES.get(said) or _VALUES.get("".join(filter(str.isalpha, said.translate(_LEET))), OVER_TWENTY)


PERSON = (
    "girls?|boys?|woman|man|lady|guys?|female|male|person|teen|daughters?|sons?|sisters?|brothers?|cousins?|niece"
    "|nephew|students?|pupils?|dancers?|singers?|actress|actor|character|princess|prince|maid|maiden|lass|lad|youth"
    "|kids?|child|children|girlfriend|boyfriend|protagonist|heroine|hero|model|subject|elf|fairy|witch|waitress"
    "|cheerleader|babysitter|neighbou?r|friends?|twins|brunette|blonde|redhead|women|men|people|anyone|someone|everyone"
    "|minor"
)
PUPIL = "pupils?|students?|girls?|boys?|kids?|children|child|schoolgirls?|schoolboys?|classroom|teens?"
ADVERB = (
    "only|just|barely|still|about|almost|nearly|currently|now|not even|already|exactly|actually|merely|like|around"
    "|roughly|approximately|probably|maybe|perhaps|supposedly|also|really|at most|no more than|either|a mere|clearly"
    "|obviously|canonically|supposed to be|in fact|between|turning|going on|to be|be|the age of|age|aged|both|all|each"
    "|a|an|the|secretly|technically|really|barely even|yet|no older than|not older than|not yet|well|she's|he's"
    "|my age is"
)
_THING = (
    "whisk(?:y|ey|eys|ies)|scotch|bourbon|single malts?|malts?|rum|cognac|brandy|port|wines?|rioja|cheeses?|cheddar"
    "|gouda|parmesan|balsamic|vinegar|bottles?|casks?|barrels?|vintages?|reserve|spirits?|tequila|mezcal|beef|ham"
    "|steaks?|cars?|vehicles?|vans?|trucks?|bikes?|bicycles?|boats?|ships?|trains?|planes?|engines?|motors?|house|home"
    "|building|buildings|church|cathedral|castle|bridge|tower|school|university|company|companies|firm|startup|business"
    "|brand|newspaper|band|club|team|league|festival|tradition|trees?|oaks?|pines?|forests?|plants?|roses?|vines?"
    "|orchard|laptops?|computers?|phones?|servers?|software|code|codebase|programme?s?|apps?|websites?|site|system"
    "|machine|tv|fridge|roof|boiler|carpet|dogs?|cats?|puppy|puppies|kittens?|horses?|mares?|ponies|pony|parrots?"
    "|tortoises?|turtles?|cows?|pets?|labrador|retriever|terrier|poodle|laws?|treaty|agreement|policy|contract|lease"
    "|mortgage|paintings?|books?|manuscript|song|album|films?|movies?|game|records?|data|report|fossils?|stars?|planet"
    "|galaxy|city|town|village|country|republic|nation|marriage|war|conflict|dispute|debt|case|bonds?|batter(?:y|ies)"
    "|furniture|sofa|couch|mattress|jacket|coat|watch|piano|violin|guitar|road|railway|park|garden|farm|vineyard"
    "|distillery|brewery|library|museum|monastery|temple|ruins?"
)
_FOR_A_THING = r"(?:a|an|the|this|that|our|my|his|her|their|its|your|old|new|single|red|white|fine|family|used|dry)"
THING_BEFORE = (
    rf"\b(?:{_THING})(?:'s)?(?:\s+(?:that|which))?[\s,]*(?:is|was|are|were|'s|turns?|turned|celebrates?|celebrated"
    rf"|has been|been|reaches|reached|now|just|only|over|about|nearly|almost|some|at|aged|its|the|their|,|\s)*$"
)
_ADJECTIVE = (
    "old|single|malt|red|white|dry|aged|fine|rare|family|used|rusty|stone|oak|wooden|brick|grand|upright|scotch|irish"
    "|japanese|speyside|islay|highland|golden|german|italian|french|spanish|aged|tawny|vintage|electric|diesel"
    "|abandoned|historic|cured|software|dairy|beloved|faithful|sleepy|broken|leather|black|brown|blue|green"
)
THING_AFTER = (
    rf"^[\s-]*(?:(?:{_ADJECTIVE})[\s-]+){{0,3}}(?:{_THING})(?:\s*[.,;:!?)]|\s*$|\s+(?:is|was|are|were|in|on|with|and"
    rf"|from|of|for|at|by|that|which|needs|has|had|to|costs|goes|tastes|as|whose|under|over|near|behind|still|again|has"
    rf"|runs|stands|a|an|the)\b)"
    r"|^\s*(?:years?\s+)?in\s+(?:\w+\s+){0,3}(?:oak|casks?|barrels?|sherry|bourbon|cellars?|caves?|wood)\b"
    rf"|^\s+(?:of|for)\s+(?:{_FOR_A_THING}\s+){{1,2}}(?:{_THING})\b"
)
_MEASURE = (
    r"percent|per\s?cent|degrees?|celsius|fahrenheit|feet|foot|ft|inch(?:es)?|cm|mm|m|km|kms|kilomet(?:er|re)s?"
    r"|met(?:er|re)s?|miles?|yards?|minutes?|mins?|hours?|hrs?|seconds?|secs?|days?|weeks?|months?|points?|pounds?|lbs?"
    r"|kg|kilos?|stone|grams?|ounces?|euros?|dollars?|cents?|bucks|quid|o'?clock|am|pm|a\.m|p\.m|times|steps?|stops?"
    r"|chapters?|pages?|levels?|goals?|cards?|floors?|blocks?|to\s+(?:one|\d+)|out\s+of|of\s+(?:the|them|those|us|my"
    r"|his|her|\d+)|people|ahead|behind|across|down|up\s+on|in\s+line|th|hp|mph|kph|mb|gb|kb|px|dpi|volts?|watts?|amps?"
    r"|hz|psi|mpg|par|under\s+par|over\s+par|january|february|march|april|may|june|july|august|september|october"
    r"|november|december|spades?|hearts?|diamonds?|clubs?|handicap|strong|stars?|seats?|rounds?|players?|men|women"
    r"|children|kids|members?|guests?|different|other|more|new|large|small|big|good|red|blue|green|black|white|thousand"
    r"|hundred|million|billion|dozen|[a-z]*[b-hj-rt-xz]s"
)
MEASURE_AFTER = rf"^(?:\s*[%°$€£]|\s*['\"/:]\s*\d|[.,:/-]\d|\s*[+x×*=]\s*\d|[\s-]*(?:{_MEASURE})\b)"
YEARS_AFTER = r"^[\s-]*(?:years?|yrs?)\b"
YEARS_SPENT_AFTER = (
    r"^[\s-]*(?:years?|yrs?)\s+(?:ago|ahead|away|behind|clean|later|sober|older|younger|into|in\s+(?:prison|office|jail"
    r"|power)|of\s+(?:experience|service|marriage|work|study|data|war|peace|research)|from|married|long|late|past|since"
    r"|there|here|apart|before|after|running|on\s+the)\b"
)
COUNT_BEFORE = (
    r"(?:[$€£#]|\b(?:page|chapter|room|gate|level|number|no\.|bus|route|platform|section|score|scored|rated|size|line"
    r"|lane|floor|table|track|channel|verse|act|scene|step|question|answer|total|price|costs?)\s*)$"
)
NOBODY_BEFORE = (
    r"\b(?:no[\s-]one|nobody|none|no\s+(?:characters?|persons?|people|users?|participants?|actors?|actress(?:es)?"
    r"|models?|individuals?|subjects?|members?|guests?|performers?|content|entry|admission)|never|not|n't"
    r"|nothing)(?:\s+(?:is|are|be|may be|can be|who is|who are|looks?|appears?|that is|with|here is|allowed|admitted"
    r"|was|were|anyone|to anyone|for anyone|for those|for people|for persons|depicting anyone|of anyone))*\s*$"
)
PEOPLE_BEFORE = (
    rf"\b(?:{PERSON}|she|he|they|i|you|is|are|was|were|still|age|ages|aged|those|users?|actors?|players?)[\s,(]*$|^\s*$"
)
DURATION_BEFORE = (
    r"\b(?:depuis|pendant|hace|durante|desde|seit|vor|nach|dopo|da|sedert|il y a|in|por|for|dans|wahrend)\s*$"
)
DURATION_AFTER = (
    r"^\s*(?:d'|de\s+(?:exp|serv|trab|mari|garan|trav|hist)|di\s+(?:esp|serv|mat|gar)|lang|erfahrung|garantie|spater"
    r"|fa\b|dopo|depois|despues|apres|plus tard|nach|zuvor|atras|geleden|ago|назад|前|后|後|전|後に)"
)
GRADE_OF_A_THING = re2.compile(
    r"^[\s-]*(?:of|titanium|bolts?|steel|piano|exam|hill|climb|rapids?|listed|alumini?um|concussion|tumou?rs?|sprain"
    r"|beef|wheat|material|timber|lumber|violin|flute|theory|routes?|hike|eggs?|maple|fuel|oil|ii|iii|listing"
    r"|points?)\b"
)
OPEN_FROM, MINOR_FROM = 2006, 2009
"""Who was born in these years may be under eighteen, or is."""

_PHRASES = (
    r"sweet[\s-]*(?:16|sixteen)|quinceanera|(?:high|middle|primary|elementary|grade|nursery|pre|junior)[\s-]*schoolers?"
    r"|junior[\s-]high|secondary[\s-]school|sixth[\s-]form(?:ers?)?|gcse|a-level\s+student|kindergart\w+|(?:not|\w+n't"
    r"|never)\s+(?:(?:yet|even|quite|been|come|reached|reach|attained|the|a|an|turned|into|grown\s+into)\s+)*(?:of"
    r"\s+(?:legal\s+)?age|adult(?:hood)?|majority|age\s+of\s+(?:consent|majority|eighteen|18)|legal\s+age|legal\s+yet"
    r"|grown\s+up)\b|(?:not|\w+n't)\s+(?:yet\s+|even\s+|quite\s+)?legal(?:\s+yet)?(?:\s*[,.;!?]|\s*$)|(?:below|under"
    r"|younger\s+than|beneath)\s+(?:the\s+)?(?:legal\s+)?(?:age|age\s+of\s+(?:consent|majority)|drinking\s+age)\b"
    r"|before\s+(?:coming\s+of\s+age|adulthood|reaching\s+(?:adulthood|majority))|legal\s+in\s+(?:a\s+few|\w+)"
    r"\s+(?:year|month|week|day)s?|menor(?:es)?\s+de\s+(?:edad|idade)|minderjahrig\w*|minorenni?|mineures?\s+de\s+moins"
    r"|pre-?teens?|tweens?|(?:teen|tween)(?:age)?[\s-]+years|school\s+freshm[ae]n|u-?1[0-8]s?\b|sub-?18|years?\s+(?:shy"
    r"|short|away)\s+(?:of|from)\s+(?:adulthood|being\s+(?:an\s+adult|legal))|(?:freshman|sophomore|junior|senior)"
    r"\s+(?:in|at|of|year\s+(?:of|in|at))\s+(?:\w+\s+)?(?:high|school|hs)\b|age\s+of\s+minority"
)
MINOR_PHRASES = rf"\b(?:{_PHRASES})"
MINOR_NEEDS = (
    "sweet,quince,school,junior,form,gcse,level,kinderg,age,adult,majority,legal,grown,u1,u-1,sub,freshm,menor,minder"
    ",minor,mineur,teen,tween,freshman,sophomore"
)
OPEN_PHRASES = (
    r"(?:(?:still|legally|technically|only|is|am|he's|she's|i'm|as)\s+)+a\s+minor(?:\s*[,.;!?]|\s*$|\s+(?:and|who|in"
    r"|with)\b)|(?:can't|cannot|can\s+not)\s+(?:even\s+|legally\s+|yet\s+)*(?:vote|drink|drive)\b|(?:too"
    r"|so)\s+young\s+(?:to|for)\b|not\s+old\s+enough|n't\s+old\s+enough|(?:college|university)?\s*sophomore\s+(?:girl"
    r"|boy|student|year)|school\s+uniform|prom\s+(?:night|queen|date|dress)|first\s+period|coming[\s-]of[\s-]age"
    r"|gen(?:eration)?[\s-]alpha|barely\s+(?:18|eighteen|an\s+adult|grown)|before\s+(?:she|he)\s+(?:could"
    r"|can)\s+(?:vote|drive)|age\s+(?:is\s+)?(?:unknown|unclear|uncertain|undisclosed|ambiguous|unspecified)|(?:unknown"
    r"|uncertain|indeterminate|ambiguous)\s+age|of\s+any\s+age|ageless|eternal(?:ly)?\s+young|boarding[\s-]school"
    r"|homeroom|schoolyard|class\s+of\s+20(?:2[7-9]|[3-9]\d)|learner'?s\s+permit"
)
OPEN_NEEDS = (
    "minor,cannot,can't,young,enough,sophomore,uniform,prom ,period,coming,alpha,barely,could,can ,age,school,homeroom"
    ",class of,permit"
)
NAMED = (
    rf"\b[A-Z][a-z]{{2,15}}(?:\s+[A-Z][a-z]{{2,15}})?(?:'s|\s+(?:is|was|turns|turned|will be|looks))\s+(?:(?:only|just"
    rf"|about|still|now|barely|not even)\s+)?(?P<n>{NUMBER})(?:\s*[.,;!?)]|\s*$|\s+(?:and|but|in|with|years|when)\b)"
    rf"|\b[A-Z][a-z]{{2,15}}\s*[,(]\s*(?P<m>{NUMBER})\s*(?:[,)](?:\s+[a-z]|\s*[.,;!?]|\s*$)|[.;!?]|$)"
)
ABROAD = (
    rf"\b(?P<n>\d{{1,3}}|{'|'.join(' '.join(_ABROAD.values()).split())})[\s-]*(?:jahre?\b|jahrig\w*|ans\b|anos\b|anni\b"
    rf"|jaar\b"
    r"|ar\s+gam\w+|yasinda\w*|tuoi\b|tahun\b|godina\b)|\b(?:mam?|majac)\s+(?P<m>\d{1,3})\s+lat\b"
)
ABROAD_NEEDS = "ans,anos,anni,jahr,jaar,ar gam,yasinda,tuoi,tahun,godina,lat"
OTHER_SCRIPTS = (
    rf"(?P<n>\d{{1,3}}|十[{_HAN}]?|[{_HAN}])\s*(?:岁|歲|歳|才|살|세|лет|года?|років|летн|سنة|سنوات|عاما?|साल|वर्ष|ปี|tuổi"
    rf"|χρονών|χρονων|ετών|ετων)"
    r"|(?:未满|未滿|בת|בן)\s*(?P<m>\d{1,3})"
)
