"""The page of the explorer in a browser, as its reader uses it.

Needs playwright and a Chromium of the system; `make test-all` runs it.
"""

import itertools
import os
import re
import shutil

import made_pages as pages
import made_records as records
import numpy as np
import pytest
from scipy import stats

from lowrank.records import outcomes, store
from lowrank.reporting.curves import pareto_front, summarise
from lowrank.reporting.explorer.data import Command

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\">\"'`" + "W" * 120


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as started:
        # Chromium refuses its sandbox to root, as whom continuous integration may run.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of two tasks; the methods svd and uniform have outcomes."""
    folder = tmp_path_factory.mktemp("records")
    pages.with_outcomes(folder)
    records.write(folder, 2, ("magnitude", "codebook"))
    records.write_texts(folder, methods=("gptq", "svd"))
    return folder


@pytest.fixture(scope="module")
def frame(folder):
    frame = store.load(folder)
    return frame[frame["task"] == "digits"]


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    commands = {key: Command(f"make {key}") for key in store.load(folder)["key"]}
    path = tmp_path_factory.mktemp("page") / "explorer.html"
    path.write_text(pages.page(folder, commands), encoding="utf-8")
    return path


@pytest.fixture
def visit(browser, written):
    """Opens the page from disk; a request for anything else, or an error, fails the test."""
    contexts, wrong = [], []

    def visit(hash_="", path=written, **options):
        context = browser.new_context(**({"viewport": DESKTOP} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda one: wrong.append(one.url) if one.url != page.url else None)
        page.goto(f"{path.as_uri()}{hash_}")
        page.wait_for_selector("html[data-ready]")
        wrong[:] = [one for one in wrong if not one.startswith(path.as_uri())]
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong


def cells(page, column):
    """The texts of a column of the table of points."""
    heads = page.locator("#points thead th").all_inner_texts()
    place = [re.sub("[▴▾]", "", head).strip() for head in heads].index(column) + 1
    return page.locator(f"#points tbody tr > :nth-child({place})").all_inner_texts()


def key_of(frame, method, level, seed=0):
    rows = frame[(frame["method"] == method) & (frame["level"] == level)]
    return rows[rows["seed"] == seed]["key"].iloc[0]


def test_the_plot_shows_every_point_and_the_front_of_the_figures(visit, frame):
    page = visit()
    assert page.locator(".point").count() == frame["point"].nunique()
    points = summarise(frame, ["top1"])
    # The dense model is on the front too, and is better than what is not smaller.
    ratios = [*points["compression_ratio"], 1.0]
    expected = pareto_front(ratios, [*points["top1"], frame["dense_top1"].mean()])
    assert page.locator(".point .ring").count() == expected[:-1].sum() > 1
    # Each error bar is drawn whole, with its point in the middle.
    off = page.locator(".bar").evaluate_all(
        """bars => bars.map(bar => {
            const { f } = bar.parentNode.querySelector("g").transform.baseVal[0].matrix;
            return (bar.y1.baseVal.value + bar.y2.baseVal.value) / 2 - f;
        })"""
    )
    assert len(off) > 5 and max(map(abs, off)) < 0.1


def test_hovering_tells_and_clicking_shows_the_record(visit, frame):
    page = visit()
    point = page.locator(".point[aria-label^='codebook, level 8']")
    point.locator(".halo").hover()
    tip = page.locator("#tip")
    assert tip.is_visible() and "codebook" in tip.inner_text() and "×" in tip.inner_text()
    assert page.locator(".curve.lit").get_attribute("data-method") == "codebook"
    point.locator(".halo").click()
    detail = page.locator("#detail")
    key = key_of(frame, "codebook", 8.0)
    assert f"make {key}" in detail.inner_text() and f"record {key}" in detail.inner_text()
    detail.locator("summary", has_text="config").click()
    assert "_target_: lowrank.codebook" in detail.inner_text()
    assert detail.locator(".layers tbody tr").count() == len(records.LAYERS)
    detail.get_by_role("button", name="1", exact=True).click()
    assert f"make {key_of(frame, 'codebook', 8.0, 1)}" in detail.inner_text()


def test_filters_leave_what_they_say(visit, frame):
    page = visit()
    page.get_by_label("quantized", exact=True).uncheck()
    left = frame[frame["family"] != "quantized"]
    assert page.locator(".point").count() == left["point"].nunique()
    assert set(name.strip() for name in cells(page, "method")) == set(left["method"])
    page.get_by_role("group", name="Budget").nth(1).get_by_label("from").fill("4")
    page.keyboard.press("Tab")
    means = summarise(left, ["top1"])
    expected = (means["compression_ratio"] >= 4).sum()
    assert page.locator(".point").count() == expected < left["point"].nunique()
    page.get_by_role("button", name="Reset the view").click()
    assert page.locator(".point").count() == frame["point"].nunique()


def test_each_task_has_its_own_axes_and_norms(visit):
    page = visit()
    page.get_by_label("Task").select_option("stories-llama")
    assert "perplexity" in page.locator("#plot svg").get_attribute("aria-label")
    assert page.locator(".point").count() == 6
    page.get_by_label("full", exact=True).uncheck()
    assert {name.strip() for name in cells(page, "method")} == {"svd"}


def test_any_two_measures_are_axes(visit, frame):
    page = visit()
    for x, y in (("latency_b1_s", "bytes"), ("loss", "top1"), ("validation_top1", "kl")):
        page.locator("#x").select_option(x)
        page.locator("#y").select_option(y)
        assert page.locator(".point").count() == frame["point"].nunique(), (x, y)
        ticks = page.locator(".tick text").all_text_contents()
        assert len(ticks) >= 4 and len(set(ticks)) > 3, (x, y, ticks)


def test_an_axis_can_be_logarithmic_or_not(visit, frame):
    page = visit()
    heights = "() => [...document.querySelectorAll('.curve')].map((one) => one.getBBox().height)"
    page.locator("#y").select_option("loss")
    linear = page.evaluate(heights)
    page.get_by_label("Vertical axis, logarithmic").check()
    assert page.evaluate(heights) != linear and "ylog=1" in page.evaluate("location.hash")
    assert page.locator(".point").count() == frame["point"].nunique()
    page.get_by_label("Horizontal axis, logarithmic").uncheck()
    ticks = page.locator(".tick text[text-anchor='middle']").all_text_contents()
    places = [float(tick.strip("×")) for tick in ticks]
    steps = {round(b - a, 6) for a, b in itertools.pairwise(places)}
    assert len(steps) == 1
    # A new measure has the axis that suits it.
    page.locator("#y").select_option("kl")
    assert not page.get_by_label("Vertical axis, logarithmic").is_checked()
    # The dense model, on the front with the divergence 0, is not on a logarithmic axis.
    fronts = "() => [...document.querySelectorAll('.front')].map((one) => one.getAttribute('d'))"
    assert page.evaluate(fronts)
    page.get_by_label("Vertical axis, logarithmic").check()
    assert not any("Infinity" in path for path in page.evaluate(fronts))


def test_an_end_of_a_range_that_is_no_number_is_named(visit, frame):
    page = visit()
    for low, high, said in (
        ("1,5", "", "“1,5” is no number such as 4 or 1.5, and filters nothing."),
        ("9", "3", "Nothing lies from 9 to 3."),
        ("9", "", ""),
    ):
        for name, value in (("#size-min", low), ("#size-max", high)):
            page.locator(name).fill(value)
            page.keyboard.press("Tab")
        assert page.locator(".range .wrong").first.inner_text() == said
        assert page.locator("[aria-invalid]").count() == ("no number" in said)


@pytest.mark.parametrize("down", [False, True])
def test_tables_sort(visit, down):
    page = visit()
    head = page.locator("#points thead button", has_text="compression ratio").first
    head.click()
    if not down:
        head.click()
    order = page.locator("#points thead th", has_text="compression ratio").first
    assert order.get_attribute("aria-sort") == ("descending" if down else "ascending")
    numbers = [float(re.split("×| ±", text)[0]) for text in cells(page, "compression ratio")]
    assert numbers == sorted(numbers, reverse=down)


def test_of_many_points_the_first_are_in_the_table_until_all_are_asked_for(visit, tmp_path):
    path = tmp_path / "explorer.html"
    folder = records.write(tmp_path / "records", 4)
    path.write_text(pages.page(folder), encoding="utf-8")
    count = len(list(folder.glob("*.json")))
    page = visit("#each=1&sort=-top1", path=path)
    rows = page.locator("#points tbody tr")
    assert rows.count() == 200 < count == page.locator(".point").count()
    least = min(float(text.split()[0]) for text in cells(page, "top-1 (%)"))
    page.get_by_role("button", name=f"show all {count}").click()
    assert rows.count() == count
    shown = sorted((float(text.split()[0]) for text in cells(page, "top-1 (%)")), reverse=True)
    assert shown[199] == least and page.get_by_role("button", name="show all").count() == 0


def pair(folder, frame, methods, metric, seed=0):
    """The outcomes of two records on the same examples, in one order."""
    found = []
    for method in methods:
        key = key_of(frame, method, records.METHODS[method][1][0], seed)
        own = outcomes.of_record(folder / f"{key}.json")
        found.append(own.compressed[metric][np.argsort(own.examples)])
    return found


def test_two_points_are_compared_by_the_exact_test(visit, folder, frame):
    keys = [key_of(frame, name, records.METHODS[name][1][0]) for name in ("svd", "uniform")]
    page = visit(f"#sel={keys[0]}")
    assert "Against its dense model" in page.locator(".compare").inner_text()
    page.get_by_role("button", name="Pin to compare").click()
    page.get_by_role("button", name="select uniform, level 8, 2 seeds").click()
    compare = page.locator(".compare")
    assert "Against svd, level 32" in compare.inner_text()
    assert "Exact McNemar test, two-sided, on 50 examples" in compare.inner_text()
    rows = compare.locator("tbody tr").all_inner_texts()
    assert len(rows) == 2
    for seed, row in enumerate(rows):
        first, second = pair(folder, frame, ("uniform", "svd"), "top1", seed)
        b, c = int((first > second).sum()), int((first < second).sum())
        assert f"{b} : {c}" in row
        p = stats.binomtest(b, b + c).pvalue
        assert f"{p:.3f}" in row or f"{p:.4f}" in row


def test_other_measures_have_the_paired_t_test(visit, folder, frame):
    keys = [key_of(frame, name, records.METHODS[name][1][0]) for name in ("svd", "uniform")]
    page = visit(f"#sel={keys[0]}&vs={keys[1]}&metric=loss")
    row = page.locator(".compare tbody tr").first.inner_text()
    expected = stats.ttest_rel(*pair(folder, frame, ("svd", "uniform"), "loss"))
    assert f"{expected.pvalue:.3f}" in row
    low, high = expected.confidence_interval(0.95)
    assert f"{abs(low):.3g}"[:4] in row and f"{abs(high):.3g}"[:4] in row


def test_without_outcomes_the_page_says_why_there_is_no_test(visit, frame):
    page = visit(f"#sel={key_of(frame, 'magnitude', 0.5)}")
    said = page.locator(".compare").inner_text()
    assert "No paired test: the record holds no outcomes of single examples." in said


def test_the_address_shares_the_view(visit, frame):
    page = visit()
    page.locator("#y").select_option("loss")
    page.get_by_label("magnitude", exact=True).uncheck()
    page.get_by_role("button", name="select svd, level 32, 2 seeds").click()
    page.get_by_role("button", name="Dark").click()
    shared = page.evaluate("location.hash")
    other = visit(shared)
    assert other.locator("#y").input_value() == "loss"
    assert not other.get_by_label("magnitude", exact=True).is_checked()
    assert "svd" in other.locator("#detail h2").inner_text()
    assert other.evaluate("document.documentElement.dataset.theme") == "dark"
    nonsense = "#part=none&x=__proto__&y=%3Cb%3E&sel=1&vs=2&off=z&min=a&theme=%22&sort=-q&each=9"
    assert visit(nonsense).locator(".point").count() == frame["point"].nunique()


def test_the_keyboard_alone_is_enough(visit, frame):
    page = visit()
    page.locator("#plot .point[tabindex='0']").focus()
    seen = set()
    for press in ["ArrowRight"] * 4 + ["ArrowDown"] * 3 + ["ArrowLeft", "End", "Home"]:
        page.keyboard.press(press)
        seen.add(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        assert page.locator("#tip").is_visible()
    assert len(seen) >= 8 and all("compression ratio" in label for label in seen)
    outline = "getComputedStyle(document.activeElement.querySelector('.halo')).stroke"
    assert page.evaluate(outline) not in ("none", "")
    page.keyboard.press("p")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator(".compare h3").inner_text().startswith("Against ")
    assert "dense" not in page.locator(".compare h3").inner_text()
    # The focus stays on the point, and tabs go on through the table to the details.
    assert "point" in page.evaluate("document.activeElement.getAttribute('class')")
    for _ in range(400):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Copy":
            break
    else:
        raise AssertionError("no way to the command by the keyboard")


def test_the_way_to_the_table_keeps_the_view(visit):
    page = visit("#y=loss&off=svd")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "points"
    assert page.locator("#y").input_value() == "loss"
    assert page.evaluate("location.hash") == "#y=loss&off=svd"


def test_a_phone_shows_the_way_to_the_record(visit):
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True)
    box = page.locator(".point").first.locator(".halo").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    method = page.locator("#detail h2").inner_text().strip()
    page.get_by_role("button", name=f"Show {method}").tap()
    detail = page.locator("#detail").bounding_box()
    assert detail is not None and abs(detail["y"]) < 50


def test_everything_has_a_name_for_screen_readers(visit, frame):
    page = visit(f"#sel={key_of(frame, 'svd', 32.0)}")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, [role=button]")]
            .filter((one) => !one.getAttribute("aria-label") && !one.labels?.length
                && !(one.tagName === "BUTTON" && one.textContent.trim()))
            .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    for name in ("Vertical axis", "Horizontal axis", "Points", "Error bars"):
        assert page.get_by_role("combobox", name=name, exact=True).count() == 1


def contrast(page, selector):
    """WCAG 2's contrast of a text with its ground."""
    return page.evaluate(
        """(selector) => {
            const light = (text) => {
                const parts = text.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
                const [r, g, b] = parts.map((c) =>
                    (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ground = light(getComputedStyle(document.body).backgroundColor);
            return [...document.querySelectorAll(selector)].map((one) => {
                const style = getComputedStyle(one);
                const own = light(one.namespaceURI.endsWith("svg") ? style.fill : style.color);
                return (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05);
            });
        }""",
        selector,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_can_be_read_at_every_width_in_light_and_dark(visit, frame, scheme, viewport):
    page = visit(f"#sel={key_of(frame, 'svd', 32.0)}", viewport=viewport, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    ratios = contrast(page, "#plot text, p, h1, h2, h3, th, td, .legend li")
    assert len(ratios) > 50 and min(ratios) >= 4.5
    dark = scheme == "dark"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 150) == dark
    page.get_by_role("button", name="Light" if dark else "Dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground


def test_texts_of_records_are_only_texts(visit, tmp_path):
    made_up = records.record("svd", 1, note=HOSTILE)
    made_up |= {name: HOSTILE for name in ("method", "family", "task", "norm", "recovery")}
    made_up["layers"][0] |= {"name": HOSTILE, "factorization": HOSTILE, "norm": HOSTILE}
    store.save(made_up, tmp_path)
    path = tmp_path / "explorer.html"
    path.write_text(pages.page(tmp_path, {made_up["key"]: Command(HOSTILE)}, HOSTILE))
    page = visit(f"#sel={made_up['key']}", path=path, viewport=PHONE)
    page.locator(".point .halo").hover()
    page.locator("#detail summary", has_text="config").click()
    assert HOSTILE in page.locator("#detail .command").inner_text()
    assert HOSTILE in page.locator("#detail pre").first.inner_text()
    assert page.locator("img").count() == 0 and page.locator("script").count() == 4
    assert page.title() == f"{HOSTILE} – lowrank explorer"
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_browser_runs_no_other_script(browser, written):
    page, said = browser.new_page(), []
    page.goto(written.as_uri())
    page.on("console", lambda one: said.append(one.text))
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); }"
    )
    assert page.evaluate("window.ran") is None and "Content Security Policy" in said[0]
    page.close()
