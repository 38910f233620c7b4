"""How much the guards catch and how much they refuse for nothing, on planted items drawn with a seed.

Names are planted from lists that the guard does not read (other locales of Faker); identity numbers, accounts and cards
are made by Faker, telephone numbers by their countries' numbering plans. `-s` prints the rates.
"""

import random
import string
from collections import Counter
from collections.abc import Callable, Iterator

import phonenumbers
import pytest
from faker import Faker
from phonenumbers import PhoneNumberFormat as Form
from phonenumbers import PhoneNumberType

from tandem.settings import load_settings
from training.examples import ExampleSource, StyleExample, load_examples
from training.finding import plain
from training.guards import guard
from training.person_names import find_names

SEED = 11
PLACES = ("source", "question", "answer")
NAME_LOCALES = (
    "en_US en_GB en_CA en_NZ de_DE de_AT de_CH fr_FR fr_CH es_ES es_MX it_IT nl_NL nl_BE pt_PT pt_BR sv_SE no_NO da_DK "
    "fi_FI pl_PL cs_CZ sk_SK hr_HR hu_HU is_IS"
).split()
IBAN_LOCALES = "de_DE fr_FR es_ES it_IT nl_NL nl_BE pl_PL sv_SE no_NO da_DK fi_FI cs_CZ ro_RO de_AT de_CH pt_PT".split()
# Locale, the provider's method, and the words that stand before the number where they belong to it.
IDS = (
    ("en_US", "ssn", "Her SSN is"),
    ("en_GB", "ssn", "The national insurance number is"),
    ("de_AT", "ssn", "Sozialversicherungsnummer:"),
    ("de_CH", "ssn", "We filed"),
    ("fr_FR", "ssn", "We filed"),
    ("es_ES", "nif", "We filed"),
    ("es_ES", "nie", "We filed"),
    ("it_IT", "ssn", "We filed"),
    ("nl_NL", "ssn", "Her BSN is"),
    ("nl_BE", "ssn", "We filed"),
    ("pl_PL", "pesel", "We filed"),
    ("sv_SE", "ssn", "We filed"),
    ("no_NO", "ssn", "We filed"),
    ("da_DK", "ssn", "The CPR number is"),
    ("fi_FI", "ssn", "We filed"),
    ("cs_CZ", "birth_number", "We filed"),
    ("sk_SK", "birth_number", "We filed"),
    ("et_EE", "ssn", "We filed"),
    ("ro_RO", "ssn", "We filed"),
    ("hr_HR", "ssn", "OIB:"),
    ("tr_TR", "ssn", "We filed"),
    ("zh_CN", "ssn", "We filed"),
    ("pt_BR", "cpf", "We filed"),
    ("en_IN", "aadhaar_id", "Aadhaar number"),
    ("en_CA", "ssn", "We filed"),
)
PHONE_REGIONS = "GB US DE FR ES IT NL BE AT CH SE NO DK FI IE PL CZ PT AU NZ IN ZA BR".split()

Item = tuple[str, str]  # what it is, and a sentence with it


def test_planted_items_are_caught_and_clean_rows_pass(capsys: pytest.CaptureFixture[str]) -> None:
    clean = clean_rows()
    structured = list(structured_items())
    names = list(name_items(600))
    assert len(structured) >= 1000
    assert len(names) >= 500
    caught = rate(structured, clean, tags=("made-up",), missed=(missed := Counter()))
    nameless = list(guard(untagged(clean)).examples)
    named = rate(names, nameless, tags=(), missed=missed)
    refused = len(guard(clean).refusals) / len(clean)
    alarms, no_person = false_names(clean)
    hard = nobody_rows()
    hard_alarms = len(guard(hard).refusals) / len(hard)
    with capsys.disabled():
        for line in (
            f"\n  caught: {caught:.2%} of {len(structured)} structured items, {named:.2%} of {len(names)} names",
            f"  missed: {dict(missed)}",
            f"  refused: {refused:.2%} of {len(clean)} clean rows; for a name {alarms:.2%} of {no_person} without one,",
            f"  {hard_alarms:.2%} of {len(hard)} in which firms, places and things are called like people",
        ):
            print(line)  # noqa: T201
    assert caught >= 0.99
    assert named >= 0.95
    assert refused <= 0.02
    assert alarms <= 0.02
    assert hard_alarms <= 0.06


def clean_rows() -> list[StyleExample]:
    settings = load_settings().training
    rows = load_examples(settings.examples) + load_examples(settings.heldout)
    return random.Random(SEED).sample(rows, 2000)


def false_names(rows: list[StyleExample]) -> tuple[float, int]:
    """The share of rows in which a name is found, of those that hold no person's name; and how many these are."""
    false = people = 0
    for row in rows:
        sources = (part for source in row.sources for part in (source.title, source.heading, source.text))
        found = {name.value for text in (row.question, row.answer, *sources) for name in find_names(plain(text))}
        real = {name for name in found if not _NO_PEOPLE.intersection(name.split())}
        people += bool(real)
        false += bool(found - real) and not real
    return false / (len(rows) - people), len(rows) - people


# Of what is found in the shipped examples, that is no person: firms, a street, an illness. Read by hand.
_NO_PEOPLE = frozenset("Acácias Azzurra Halden Juniper Ottoline Unlabelled runny uni".split())


def untagged(rows: list[StyleExample]) -> list[StyleExample]:
    return [row.model_copy(update={"tags": ()}) for row in rows]


def rate(items: list[Item], rows: list[StyleExample], tags: tuple[str, ...], missed: Counter[str]) -> float:
    """The share of items that are refused, each planted into a row of its own, in sources, questions and answers."""
    rng = random.Random(SEED)
    found = 0
    for n, (kind, sentence) in enumerate(items):
        row = plant(rng.choice(rows), sentence, PLACES[n % 3]).model_copy(update={"tags": tags})
        reasons = [refusal.reason for refusal in guard([row]).refusals]
        hit = bool(reasons) and reasons[0] not in ("unsupported", "no_source", "duplicate")
        found += hit
        if not hit:
            missed[kind] += 1
    return found / len(items)


def plant(row: StyleExample, sentence: str, place: str) -> StyleExample:
    if place == "question":
        return row.model_copy(update={"question": f"{sentence} {row.question}"})
    if place == "answer":
        return row.model_copy(update={"answer": f"{sentence} {row.answer}"})
    first, *rest = row.sources
    first = first.model_copy(update={"text": f"{first.text}\n{sentence}"})
    return row.model_copy(update={"sources": (first, *rest)})


def structured_items() -> Iterator[Item]:
    rng = random.Random(SEED)
    yield from _emails(rng)
    yield from _phones(rng)
    yield from _ibans(rng)
    yield from _cards(rng)
    yield from _ids()
    yield from _secrets(rng)


def _faker(locale: str) -> Faker:
    fake = Faker(locale)
    fake.seed_instance(SEED)
    return fake


def _emails(rng: random.Random) -> Iterator[Item]:
    forms: tuple[Callable[[str], str], ...] = (
        str,
        str.upper,
        lambda mail: f"mailto:{mail}",
        lambda mail: f"<{mail}>",
        lambda mail: mail.replace("@", " [at] "),
        lambda mail: mail.replace("@", "(at)").replace(".", " (dot) "),
        lambda mail: mail.replace("@", " at ").replace(".", " dot ") if mail.count(".") == 1 else mail,
        lambda mail: mail.replace("@", "+news@"),
    )
    for locale in ("en_US", "de_DE", "fr_FR", "it_IT", "sv_SE"):
        fake = _faker(locale)
        for _ in range(40):
            yield "email", f"Please write to {rng.choice(forms)(fake.free_email())} about it."


def _phones(rng: random.Random) -> Iterator[Item]:
    for region in PHONE_REGIONS:
        for n in range(11):
            number = _number(rng, region, PhoneNumberType.MOBILE if n % 2 else PhoneNumberType.FIXED_LINE)
            form = (Form.INTERNATIONAL, Form.E164, Form.NATIONAL)[n % 3]
            text = phonenumbers.format_number(number, form)
            lead = ("Please call", "Her telephone is", "Mobile:", "You reach us at")[n % 4]
            yield f"phone {region}", f"{lead} {text} before noon."


def _number(rng: random.Random, region: str, kind: int) -> phonenumbers.PhoneNumber:
    """A number that the country could give out."""
    example = phonenumbers.example_number_for_type(region, kind)
    assert example is not None
    digits = phonenumbers.national_significant_number(example)
    for _ in range(200):
        drawn = digits[:4] + "".join(rng.choice(string.digits) for _ in digits[4:])
        number = phonenumbers.parse(f"+{example.country_code}{drawn}")
        if phonenumbers.is_valid_number(number):
            return number
    return example


def _ibans(rng: random.Random) -> Iterator[Item]:
    for locale in IBAN_LOCALES:
        fake = _faker(locale)
        for _ in range(10):
            iban = fake.iban()
            grouped = " ".join(iban[at : at + 4] for at in range(0, len(iban), 4))
            yield f"iban {locale}", f"Pay to {rng.choice((iban, grouped, iban.lower()))} within a week."


def _cards(rng: random.Random) -> Iterator[Item]:
    fake = _faker("en_US")
    for _ in range(160):
        card = fake.credit_card_number()
        parted = [card[at : at + 4] for at in range(0, len(card), 4)]
        if len(card) >= 13:
            yield "card", f"It was charged to {rng.choice((card, ' '.join(parted), '-'.join(parted)))} by mistake."


def _ids() -> Iterator[Item]:
    for locale, method, lead in IDS:
        fake = _faker(locale)
        for _ in range(12):
            yield f"{method} {locale}", f"{lead} {getattr(fake, method)()} today."


def _secrets(rng: random.Random) -> Iterator[Item]:
    def drawn(length: int, letters: str = string.ascii_letters + string.digits) -> str:
        return "".join(rng.choice(letters) for _ in range(length))

    for _ in range(12):
        yield "secret", f"password: {drawn(9)}{rng.randrange(10)}"
        yield "secret", f"The password for the till is {drawn(6)}!{rng.randrange(100)}."
        yield "secret", f"Use AKIA{drawn(16, string.ascii_uppercase + string.digits)} for the upload."
        yield "secret", f"Use ghp_{drawn(36)} for the upload."
        yield "secret", f"Use sk-proj-{drawn(40)} for the upload."
        yield "secret", f"Log in as postgres://app:{drawn(12)}@db.internal/orders then."
        yield "secret", f"The API key is {drawn(32, 'abcdef' + string.digits)}."
        yield "secret", f"Send the header Authorization: Bearer {drawn(40)} with it."


def name_items(count: int) -> Iterator[Item]:
    rng = random.Random(SEED)
    fakes = [(locale, _faker(locale)) for locale in NAME_LOCALES]
    sentences = (
        "Requests go to {}, who answers within two days.",
        "{} approved the budget of that year.",
        "The form is kept by {} in the cellar.",
        "Only {} may open the safe; nobody else has the key.",
        "In March {} moved to another office.",
        "Contact: {}.",
        "Kind regards,\n{}",
        "This was agreed with {} (accounts).",
        "When {} is away, the desk is closed.",
        "Dr. {} signs the certificate.",
    )
    for n in range(count):
        locale, fake = fakes[n % len(fakes)]
        name = f"{fake.first_name()} {fake.last_name()}"
        if n % 12 == 5:
            name = f"{fake.last_name()}, {fake.first_name()}"
        yield f"name {locale}", rng.choice(sentences).format(name)


def nobody_rows() -> list[StyleExample]:
    """Rows that name firms, products, streets, towns, laws and offices, many after people, and no person: hard ones."""
    rows = []
    for text in _NOBODY.strip().splitlines():
        source = ExampleSource(title="Notice", text=text)
        rows.append(
            StyleExample(
                question="What does the notice say?",
                answer=f"{text.rstrip('.')} [1].",
                sources=(source,),
                approved_by="c",
            )
        )
    return rows


_NOBODY = """
Deliveries by Baker Hughes and Johnson & Johnson arrive on Monday.
The contract with Miller & Sons Ltd ends in March.
Harrow & Pell Joinery keeps the old forms for six years.
Parcels for Marks and Spencer are left at the gate.
The lift is serviced by Otis Elevator Company twice a year.
Morgan Stanley and Goldman Sachs publish the index.
The pump is a Grundfos Alpha 2 with a Danfoss valve.
Bosch Rexroth and Siemens Energy offer spare parts.
Our printer is a Hewlett-Packard LaserJet 400.
Rolls-Royce Marine repairs the thruster in Bergen.
The van is a Ford Transit Custom, the car a Skoda Octavia.
Mercedes-Benz Trucks answers warranty questions.
Royal Mail and Deutsche Post collect at five.
The Sydney Harbour office is closed on Anzac Day.
Turn left into Albert Road, then right into Victoria Street.
The clinic is at 14 Elizabeth Street, beside St George Square.
Our branch in King William Street moved to London Wall.
The bus stops at Charles Bridge and at Martin Place.
The archive lies in Prince Albert Road near Regent's Park.
The warehouse on Jefferson Avenue closes at noon.
Washington Heights and Lincoln Park are zone two.
San Francisco and Los Angeles are served daily.
Los Angeles, San Diego and Santa Barbara belong to the west region.
Trains to Kings Cross and Charing Cross leave hourly.
The Grand Canyon tour starts in Las Vegas.
New Zealand and South Africa need a visa.
The ferry from Holyhead to Dublin Port is included.
Lake Geneva and Lake Constance are covered by the pass.
The Isle of Wight counts as mainland for postage.
Port Elizabeth and East London have depots.
The Human Resources team and the Finance Department share a printer.
The Data Protection Officer answers within a month.
The General Manager and the Works Council sign together.
The Board of Trustees meets on the first Tuesday.
The Managing Director approves travel above the limit.
Customer Service answers on Monday and Friday.
The Health and Safety Executive must be told.
The Information Commissioner's Office takes complaints.
The European Data Protection Board publishes guidance.
The Royal Society of Chemistry lends the film.
The Companies Act and the Equality Act apply.
The General Data Protection Regulation applies to both.
The Freedom of Information Act gives twenty days.
The Health Insurance Portability and Accountability Act applies in America.
The Paris Agreement and the Geneva Convention are cited.
Form W-8 and Schedule B go to the Tax Office.
Microsoft Teams and Google Workspace are allowed.
Open the Windows Control Panel and choose Power Options.
Adobe Acrobat Reader shows the form.
The Apache License and the MIT License are permissive.
Visual Studio Code and Jupyter Notebook are installed.
Ruby on Rails and Apache Kafka run on the old host.
Press Control and Escape to leave Safe Mode.
The Amber Alert light and the Green Button are on the panel.
The Summer Plan costs more than the Winter Plan.
The Gold Card and the Silver Card include towels.
Grace Period and Cooling-Off Period are defined in the annex.
The Early Bird Ticket and the Family Day Pass sell out.
Standard Delivery and Express Delivery leave from Hall B.
The Annual General Meeting is held in the Great Hall.
The Rose Garden and the Olive Grove close at dusk.
The Victoria Sponge and the Earl Grey are on the menu.
Caesar Salad and Eggs Benedict are served until eleven.
The Jack Russell and the Saint Bernard count as dogs.
Black Friday and Boxing Day are no working days.
Good Friday and Easter Monday are holidays.
On Martin Luther Day the office in Erfurt is closed.
Christmas Eve and New Year's Eve are half days.
The Nobel Prize and the Booker Prize are mentioned.
The Bernoulli Equation and the Reynolds Number are in the annex.
Alzheimer and Parkinson are covered by the plan.
The Hodgkin Lymphoma ward is on floor two.
Philips screws and Allen keys are in the box.
The Bluetooth Low Energy mode saves power.
The Wi-Fi name is Guest Lounge.
Meet at the Blue Anchor or the Red Lion.
The Queen Mary and the King George are berthed.
The Santa Maria sails at high water.
The Flying Scotsman and the Orient Express stop here.
The Royal Albert Hall sends invoices late.
The Tate Modern and the Victoria and Albert Museum lend frames.
Central Library and City Archive share a card.
Oxford University Press and Cambridge University Press give discounts.
The Max Planck Institute and the Fraunhofer Society apply.
Trinity College and King's College have their own rules.
The Red Cross and Doctors Without Borders are partners.
The Salvation Army collects clothes on Thursday.
Save the Children and Amnesty International may collect.
The Bank of England and the Federal Reserve set the rate.
American Express and Diners Club are accepted.
Pay by Apple Pay or Google Pay.
The Deutsche Bahn ticket counts from Hamburg Altona.
Swiss Federal Railways and Austrian Airlines give refunds.
Norwegian Air Shuttle and Air France are booked online.
Holiday Inn and Best Western have our rate.
Hotel Adlon and Villa Borghese are not covered.
Costa Coffee and Caffe Nero take the voucher.
Burger King and Taco Bell are in the east wing.
Ben & Jerry's is sold in the kiosk.
Dr. Martens and Levi's give staff discounts.
Use Loctite 243 and WD-40 on the hinge.
Tarvold Pumps and Kestrel Marine share a yard.
Veldane Systems and Norrland Timber signed in June.
The Quillmark Press and the Solveig Press merged.
Lanternfold Payouts and Chirruping Bots are our brands.
The Juniper Terrace flats have a common boiler.
Silverdene Facilities cleans the Myrtlestone building.
Ask at Window Four or at the Help Desk.
Level Two and Level Three need a pass.
See Annex Three and Table Nine.
Section Twelve replaces Section Nine.
The Fire Warden and the First Aider wear vests.
The Night Porter keeps the Master Key.
Team Alpha and Team Bravo change at six.
Gate Delta and Gate Echo are shut in winter.
North Sea Oil and West Texas Crude are quoted.
English Breakfast and French Toast are extra.
Dutch Gold and Irish Cream are on the list.
Indian Summer is the name of the May campaign.
Northern Ireland and West Virginia have other rates.
The Black Forest and the Lake District are regions.
Mount Everest and Ben Nevis are room names.
The Monte Carlo method and the Markov chain are used.
Cat Five cable runs to Rack Seven.
The Golden Gate Bridge model stands in the lobby.
Hudson Bay and Baffin Island are out of range.
"""
