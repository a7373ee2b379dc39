"""Ages as people write them: phrases that say that somebody is under eighteen or leave it open, and neighbours.

The rules were first mended on the phrases at even places, then tried on those at odd ones: docs/policy.md states what
they missed there.
"""

_UNDER_EIGHTEEN = """
aged 16.
16 years of age
she is 17
turned 17!
age: 17.
a person of 16 years
she's sixteen
he is only fifteen.
sixteen years old
a six-teen year old dancer
16yo
16 y/o
17 y.o.
a 15-year-old
fifteen-year-old singer
she turns 17 tomorrow
turning sixteen
just turned 14
her 17th birthday
his seventeenth birthday party
not yet eighteen
not yet 18
under 18
under eighteen
below the age of 18
younger than 18
she isn't 18 yet
he hasn't turned eighteen
two years short of nineteen
a year away from turning 18
a few months shy of eighteen
almost 18
nearly eighteen
soon to be 18
10th grade
a tenth grader
9th-grader
grade 10 student
year 9 pupil
a pupil in year 10
sophomore in high school
a freshman at Lincoln High School
a middle schooler
a sixth former
junior high
a high-schooler
a girl of sixteen
a boy of 15
a lass of fifteen summers
the dancer, 17, smiles
a dancer (16)
girl, 15
female, 16
16/f
(f, 17)
Mia is 16.
Lena, 15, waves
Anna (17) in the garden
I am 16
i'm 15 and bored
im 17
they are both 16
who is just 14
she looks like she is 13
looks 15 years old
between 14 and 16 years old
ages 12-15
aged between 13 and 17
age of 14
at the age of sixteen
at age 15
Age = 16
"age": 17
age seventeen
16 years and 3 months old
sixteen and a half years old
17 and a half years old
16.5 years old
17 going on 18
in her sixteenth year
born in 2012
born on May 3, 2011
date of birth: 12/05/2013
DOB 2012-04-01
birth year 2010
sweet sixteen
sweet 16
a quinceañera
in her early teens
in his mid-teens
a tween
a preteen
not of age
she is not of legal age
not legal yet
isn't an adult yet
hasn't reached adulthood
before coming of age
below the age of consent
under the legal age
too young to vote
not old enough to drink
legal in two years
before her 18th birthday
until she turns 18
before turning eighteen
XVI years old
１６ years old
١٦ years old
१७ years old
she is １７
16 ans
elle a seize ans
tiene 16 años
ha 16 anni
tem 15 anos
16 Jahre alt
eine 16-jährige
sechzehn Jahre alt
16岁
16歳の
十六岁
17살
ей 16 лет
menor de edad
minderjährig
16 year old girl
16-yr-old
a 17 year-old
aged just 16
aged about fifteen
just 16 years young
she was seventeen when
he will be 17 next month
her age is 16
she'll turn 17
about to turn 16
a sixteen year old
six teen years old
s1xteen years old
s i x t e e n years old
1 6 years old
14 months old
an eight-year-old
she is eleven
aged nine
the age of eight
a kid in 4th grade
fifth-grade classroom
class 8 student
barely eighteen
no older than 16
at most 17 years old
in a school uniform
age unknown
eighth grader
just seventeen, she waves
17, almost 18
not quite eighteen
still a minor
a year shy of eighteen
in Year 11
16 summers old
sub-18
age < 18
16ish years old
mid teens
hs freshman girl
16yr old
16yrs
age16
she has just turned 17
she'd be 17
at 16, she
when I was 16
she became 16
she (16) smiled
she is **17**
"age":"16"
a minor of 17
she turns 18 next month
one day until she's 18
can't vote yet
16 is her age
fifteen was his real age
celebrating her 16th
she celebrated her seventeenth
sixteen-going-on-seventeen
she has lived sixteen years
alive for only fifteen summers
Anna, 16.
meet Anna, sixteen!
"""

_NEIGHBOURS = """
the ticket costs 16 dollars
17 euros each
a price of $16
it is 16 degrees outside
below 10 degrees
under 18 minutes
under 18% fat
chapter 16
chapter 17 begins
page 16 of 40
room 17 on the left
at 16:30 in the afternoon
the train leaves at 17:05
5 pm
16 o'clock
12 km from here
she is 16 minutes late
he is 6 feet tall
she is 5 points ahead
he ran 16 miles
a 16 mile run
whisky aged 16 years
a 16-year-old whisky
a 12 year old single malt
scotch, aged 12 years
a wine aged 10 years in oak
a cheese aged 12 months
a 17 year old red wine
my car is 9 years old
a 15-year-old car
the building is 16 years old
a 17-year-old oak tree
the company is 10 years old
our 10th birthday of the company
the company's 15th birthday
a 14 year old dog
my cat is 16 years old
the house is 12 years old
a 16 year old laptop
she is 34
he is 21 years old
a woman aged 34
a 45-year-old man
aged 18
18 years old
18 years of age
she is 18
turned 18
turned 21 last week
her 30th birthday
his eighteenth birthday
age: 25
age 42
forty-two years old
a man of fifty
a woman of thirty
she is twenty-one
twenty-one years old
a hundred and sixteen years old
eighteen-year-old
19yo
22 y/o
over 18
18+
must be over 18
no one under 18
nobody under eighteen
never under 18
everyone is 18 or older
at least 18
all adults, 21 and up
born in 1985
born on May 3, 1990
date of birth: 12/05/1979
the band was born in 2012
founded in 2012
class of 1998
the score is 16 to 12
they won 16-12
she scored 17 points
it was 17 to one
16 players on the field
12 women dance
seventeen candles on a table
sixteen roses
a group of 16
a team of 15
size 16
a size 14 dress
16 GB of memory
a 16 inch screen
16 bit colour
f/16 at 1/125
ISO 16 film
version 16.2
Windows 11
iOS 17
highway 16
bus 17
flight 16
gate 12
level 17
player one, level 16
episode 16
season 12
on March 16, 2020
June 17
the 16th century
in the 17th century
16th floor
seventeenth street
the 12th of May
Louis XVI style
Henry VIII
grade 5 titanium
grade 8 bolts
grade A eggs
year 9 of the war
fiscal year 10
in year 5 of the project
junior developer
senior engineer
a sophomore album
she has 16 years of experience
16 years ago
sixteen years later
for 17 years they lived there
married for 15 years
in 16 years
sober for 12 years
he is 16 years sober
she turned 16 pages
turned 90 degrees
turn 12 of the game
at turn 3
average 16
stage 17
image 12
the bronze age
ages ago
middle-aged
the ice age, 12000 years ago
depuis 16 ans
hace 16 años
vor 16 Jahren
16 ans d'expérience
16 people came
16 percent
I am 16 stops away
we are 12 strong men
he was 3rd in line
she is 1 of them
16 x 9 format
16:9
a 1960s dress
17 syllables
the year 2012
in 2012 they met
16 mm film
20 years old
18yo
at 25 she moved
a 30-year marriage
this 12-year project
15 years in prison
17 years at the company
their 15th anniversary
he is number 16
the 12 apostles
sixteen tons
over 18s only
mature audiences 18
aged 65 and over
a dancer, 28,
Anna, 31, waves
Mia is 22.
fifty-first birthday
grade 2 listed house
first form of the verb
20 ans
tiene 34 años
30岁
dinner for 8
34 is her age
celebrating her 40th
celebrating their 16th win together
celebrating its 16th
she has lived sixteen years in Oslo
alive for fifty years
forty-going-on-fifty
Anna, 36.
16 is her number
"""

UNDER_EIGHTEEN = tuple(line for line in _UNDER_EIGHTEEN.splitlines() if line)
NEIGHBOURS = tuple(line for line in _NEIGHBOURS.splitlines() if line)
