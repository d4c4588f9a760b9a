"""The interactive report in a real browser: clicks, drags and sound, without any network access."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from captum_spes import SpeechToTextExplanation
from captum_spes.audio.masking import mask_audio
from captum_spes.explanation.figures import is_signed, relative
from captum_spes.maps import percentile_ranks

pytestmark = pytest.mark.slow
T, C, SECONDS = 120, 16, 1.2
RATE = 16000
SLOW = 120_000  # milliseconds that a busy machine may take for a step
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\u2028'\"`${alert(1)}&amp;--><!--\u202e\x00",
)


@pytest.fixture
def open_report(browser, tmp_path):
    """Opens a report; at the end no error was logged, no dialog opened, and nothing was asked for but the file."""
    pages = []

    def open_report(explanation, audio=None, others=(), width=1000, **context):
        path = tmp_path / f"report{len(pages)}.html"
        explanation.to_html(path, audio=audio, sampling_rate=None if audio is None else RATE, others=others)
        page = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
        page.problems, page.requests = [], []
        page.on("console", lambda message: page.problems.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("dialog", lambda dialog: (page.problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=20000)
        pages.append((page, path.as_uri()))
        return page

    yield open_report
    for page, url in pages:
        assert page.problems == []
        # what the page makes of its own content (blob:, data:) is no request to anywhere
        assert [asked for asked in page.requests if not asked.startswith(("blob:", "data:"))] == [url]
        page.context.close()


def make(method="SPES", seed=0, tokens=(" So", " what", "'s", " next", "?"), signed=False):
    """Each token's map has a bright spot where the token is spoken, in noise."""
    generator = torch.Generator().manual_seed(seed)
    n = len(tokens)
    maps = 0.1 * torch.rand(n, T, C, generator=generator)
    for token in range(n):
        start = T * token // n
        maps[token, start + 3 : start + 13, 2 * token : 2 * token + 5] += 1
        if signed:
            maps[token, start + 15 : start + 18] -= 0.8
    previous = ["<s>", *tokens[:-1]]
    n_previous = torch.arange(1, n + 1)
    token_attr = torch.rand(n, n, generator=generator) * (torch.arange(n) < n_previous[:, None])
    return SpeechToTextExplanation(
        text="".join(tokens).strip(),
        tokens=list(tokens),
        previous_tokens=previous,
        spectrogram=torch.randn(T, C, generator=torch.Generator().manual_seed(7)),
        spectrogram_attr=maps,
        token_attr=token_attr,
        n_previous=n_previous,
        frames_per_second=T / SECONDS,
        mel_frequencies=torch.linspace(200, 7600, C),
        reliability=torch.linspace(0.5, 0.9, n),
        metadata={"method": method, "model": "a model", **({"contrast": {"word": "So"}} if signed else {})},
    )


@pytest.fixture
def speech():
    time = np.arange(int(SECONDS * RATE)) / RATE
    noise = np.random.default_rng(0).normal(0, 0.05, len(time))
    return (0.3 * np.sin(2 * np.pi * (300 + 2000 * time) * time) + noise).astype(np.float32)


def chosen(page):
    return page.locator("#rows [aria-checked=true]").inner_text()


def point(page, frame, channel, plot=0):
    """The middle of a bin in pixels of the page."""
    return page.evaluate(
        """([frame, channel, index]) => {
            const plot = page.plots[index];
            const box = plot.canvas.getBoundingClientRect();
            return [box.left + plot.xOfTime((frame + 0.5) / page.report.framesPerSecond),
                    box.top + plot.yOfChannel(channel + 0.5)];
        }""",
        [frame, channel, plot],
    )


def wait(page, condition):
    """Until a condition holds; Playwright's own way would need eval(), which the page forbids."""
    page.evaluate(
        f"""new Promise((done, fail) => {{
            setInterval(() => ({condition}) && done(), 10);
            setTimeout(() => fail(new Error("it never came")), {SLOW});
        }})"""
    )


def hover(page, frame, channel, plot=0):
    page.mouse.move(*point(page, frame, channel, plot))
    return page.locator(".tooltip").nth(plot).inner_text()


def pixel(page, frame, channel, plot=0):
    """Red, green, blue of a bin as drawn."""
    return page.evaluate(
        """([frame, channel, index]) => {
            const { picture } = page.plots[index];
            const probe = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
            probe.drawImage(picture, -frame, channel + 1 - picture.height);
            return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3);
        }""",
        [frame, channel, plot],
    )


def test_tokens_are_chosen_by_click_and_keys(open_report):
    page = open_report(make())
    chips = page.locator("#rows [role=radio]")
    assert chips.all_inner_texts() == ["So", "what", "'s", "next", "?"]
    assert chosen(page) == "So"
    chips.nth(3).click()
    assert chosen(page) == "next"
    page.keyboard.press("ArrowRight")
    assert chosen(page) == "?"
    page.keyboard.press("ArrowRight")  # there is no further one
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert chosen(page) == "'s" and page.locator(":focus").inner_text() == "'s"
    page.keyboard.press("Home")
    assert chosen(page) == "So"
    page.mouse.click(5, 5)  # nothing has the focus: the arrows still choose
    page.keyboard.press("ArrowRight")
    assert chosen(page) == "what"
    assert page.locator("#rows [tabindex='0']").count() == 1


def test_previous_tokens_are_shaded(open_report):
    explanation = make()
    page = open_report(explanation)
    page.locator("#rows [role=radio]").nth(3).click()
    normalized = explanation.normalize().token_attr[3]
    shades = page.evaluate(
        "[...document.querySelectorAll('.chip')].map((chip) => Number(chip.style.getPropertyValue('--shade')))"
    )
    assert shades == pytest.approx([*normalized[:4].tolist(), 0, 0], abs=1e-3)
    top = explanation.top_previous_tokens()[3].strip()
    assert f"Most important before it: “{top}” {normalized.max():.2f}" in page.locator("#summary").inner_text()
    assert "Reliability 0.80" in page.locator("#summary").inner_text()


@pytest.mark.parametrize("signed", [False, True])
def test_scores_of_every_view(open_report, signed):
    """What the pointer reads is what the library's own figures show."""
    explanation = make(signed=signed)
    page = open_report(explanation)
    if signed:
        source = relative(explanation)
        views = {
            "tokens": source,
            "words": relative(source.words(normalize=False)),
            "sentence": source.sentence(normalize=False),
        }
    else:
        views = {"tokens": explanation.normalize(), "words": explanation.words(), "sentence": explanation.sentence()}
    for view, rows in views.items():
        page.get_by_role("radio", name=view, exact=True).click()
        texts = [token.strip() for token in rows.tokens]
        assert page.locator("#rows [role=radio]").all_inner_texts() == texts
        row = max(len(texts) - 2, 0)
        page.locator("#rows [role=radio]").nth(row).click()
        expected = rows.spectrogram_attr[row]
        ranks = percentile_ranks(expected)
        for frame, channel in [(80, 8), (60, 4), (T - 1, C - 1)]:
            _, score, above = hover(page, frame, channel).splitlines()
            value = float(score.removeprefix("score ").replace("−", "-"))
            assert value == pytest.approx(float(expected[frame, channel]), abs=0.006)
            assert float(above.split()[1]) == pytest.approx(float(ranks[frame, channel]), abs=1)
    assert hover(page, 3, 0).splitlines()[0] == "0.04 s, 200 Hz"
    assert hover(page, 100, 9).splitlines()[0] == "1.00 s, 4.64 kHz"


def test_the_map_can_be_faded(open_report):
    page = open_report(make())
    bright = pixel(page, 6, 2)
    assert max(bright) - min(bright) > 50  # a colour
    page.locator("#opacity").fill("0")
    red, green, blue = pixel(page, 6, 2)
    assert red == green == blue  # the spectrogram's grey
    page.locator("#opacity").fill("50")
    assert page.locator("output[for=opacity]").inner_text() == "50 %"
    assert pixel(page, 6, 2) not in ([red] * 3, bright)


def test_signed_maps_have_two_colours(open_report):
    page = open_report(make(signed=True))
    purple, orange = pixel(page, 6, 2), pixel(page, 16, 8)
    assert purple[2] > purple[1] and orange[0] > orange[2]
    assert page.locator("#legend-low").inner_text() == "−1.00"
    assert "strengthens" in page.locator("#legend-text").inner_text()
    page = open_report(make())
    assert "normalised to 0–1" in page.locator("#legend-text").inner_text()
    positive = replace(make(signed=True), metadata={"method": "Saliency"})  # no contrast: negative values are left out
    page = open_report(positive)
    assert page.locator("#legend-low").inner_text() == "0.00"
    assert "except outliers: larger = hiding it weakens" in page.locator("#legend-text").inner_text()


def drag(page, first, last):
    page.mouse.move(*point(page, *first))
    page.mouse.down()
    page.mouse.move(*point(page, *last), steps=3)
    page.mouse.up()


def test_a_region_names_the_tokens_that_depend_on_it(open_report):
    page = open_report(make())
    drag(page, (75, 6), (84, 10))  # where "next" is spoken
    assert page.evaluate("page.region") == {"firstFrame": 75, "stopFrame": 85, "firstChannel": 6, "stopChannel": 11}
    text = page.locator("#region").inner_text()
    assert "from 0.75 to 0.85 s" in text and "10 % of each map: “next” 100 %" in text
    depends = page.evaluate("page.rows.buttons.map((chip) => Number(chip.style.getPropertyValue('--depends')))")
    assert depends[3] == 1 and max(depends[:3]) < 0.5
    page.get_by_role("button", name="Clear the region").click()
    assert page.evaluate("page.region") is None and "Drag over" in page.locator("#region").inner_text()
    drag(page, (75, 6), (84, 10))
    page.mouse.click(*point(page, 20, 2))  # a click clears it too
    assert page.evaluate("page.region") is None


def test_the_spectrogram_by_keyboard(open_report):
    page = open_report(make())
    page.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("page.bin") == {"frame": 62, "channel": 8}
    assert "kHz" in page.locator("#spoken").inner_text()
    assert chosen(page) == "So"  # the arrows are the spectrogram's
    for key in ("ArrowRight", "ArrowUp"):
        page.keyboard.press(f"Shift+{key}")
    assert page.evaluate("page.region") == {"firstFrame": 62, "stopFrame": 65, "firstChannel": 8, "stopChannel": 10}
    page.keyboard.press("Escape")
    assert page.evaluate("page.region") is None


def test_theme(open_report):
    page = open_report(make(), color_scheme="dark")

    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark, quiet = ground(), pixel(page, 40, 15)
    page.get_by_role("button", name="Light colours").click()
    assert ground() == "rgb(255, 255, 255)" != dark
    assert sum(pixel(page, 40, 15)) > sum(quiet)
    page.get_by_role("button", name="Dark colours").click()
    assert ground() == dark
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert ground() == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert ground() == dark


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(open_report, theme):
    """WCAG AA: 4.5 for text, 3 for what controls are recognised by."""
    page = open_report(make(), color_scheme=theme)
    colors = page.evaluate(
        """() => Object.fromEntries(["ground", "panel", "text", "muted", "line", "accent", "on-accent", "mark", "meter"]
            .map((name) => {
                const probe = document.createElement("div");
                const most = "color-mix(in srgb, var(--mark) 60%, var(--panel))";
                probe.style.color = name === "mark" ? most : `var(--${name})`;
                document.body.append(probe);
                const canvas = new OffscreenCanvas(1, 1).getContext("2d");
                canvas.fillStyle = getComputedStyle(probe).color;
                canvas.fillRect(0, 0, 1, 1);
                return [name, [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)];
            }))"""
    )

    def luminance(rgb):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(rgb) / 255]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    def contrast(a, b):
        low, high = sorted((luminance(colors[a]), luminance(colors[b])))
        return (high + 0.05) / (low + 0.05)

    for ink, paper in [("text", "ground"), ("text", "panel"), ("muted", "ground"), ("muted", "panel")]:
        assert contrast(ink, paper) >= 4.5, (ink, paper)
    assert contrast("on-accent", "accent") >= 4.5 and contrast("text", "mark") >= 4.5
    for ink in ("line", "accent", "meter"):
        assert contrast(ink, "ground") >= 3, ink


def test_audio_plays_with_a_cursor(open_report, speech):
    page = open_report(make(), speech)
    assert page.locator("audio[controls]").count() == 1
    assert page.evaluate(
        "page.sound.audio.readyState >= 1 || new Promise((r) => (page.sound.audio.onloadedmetadata = r))"
    )
    assert page.evaluate("page.sound.audio.duration") == pytest.approx(SECONDS, abs=0.01)
    assert page.evaluate("page.sound.position") is None
    page.evaluate("page.sound.audio.loop = true")  # however slow the machine is
    page.get_by_role("button", name="Play all").click()
    wait(page, "page.sound.position > 0.05")
    first = page.evaluate("page.plots[0].overlay.toDataURL()")
    wait(page, f"Math.abs(page.sound.position - {page.evaluate('page.sound.position')}) > 0.1")
    assert page.evaluate("page.plots[0].overlay.toDataURL()") != first
    assert page.locator("#play-all").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Play all").click()  # the same button stops
    assert page.evaluate("page.sound.audio.paused")


def test_only_the_salient_span_plays(open_report, speech):
    page = open_report(make(), speech)
    page.locator("#rows [role=radio]").nth(3).click()
    first, last = page.evaluate("page.spanSeconds()")
    assert 0.7 < first < last < 0.9  # where its spot is
    page.evaluate("page.sound.audio.playbackRate = 0.1")  # a busy machine stops late
    page.get_by_role("button", name="Play its span").click()
    assert page.evaluate("page.sound.audio.currentTime") >= first - 0.06
    wait(page, "page.sound.audio.paused")
    assert page.evaluate("page.sound.audio.currentTime") == pytest.approx(last + 0.05, abs=0.25)


@pytest.mark.parametrize("view, rows", [("tokens", make()), ("words", make().words())])
def test_masked_audio_is_pythons(open_report, speech, view, rows):
    page = open_report(make(), speech)
    page.get_by_role("radio", name=view, exact=True).click()
    page.locator("#share").fill("5")
    page.locator("#rows [role=radio]").nth(1).click()
    heard = {}
    for only, name in ((True, "keep"), (False, "remove")):
        samples = page.evaluate(f"page.sound.masked({str(only).lower()}).then((samples) => [...samples])")
        heard[name] = np.array(samples, dtype=np.float32)
        expected = rows.to_audio(speech, 1, sampling_rate=RATE, **{name: 0.05})
        assert len(heard[name]) == len(expected) == len(speech)
        # a bin or two may be others, for the file keeps scores rounded
        assert np.square(heard[name] - expected).sum() < 0.01 * np.square(expected).sum()
    assert np.abs(heard["keep"] + heard["remove"] - speech).max() < 1e-4  # 16 bits of the embedded recording
    mask = np.array(page.evaluate("[...page.map.mostSalient(0.05)]")).reshape(T, C)
    assert mask.sum() == int(0.05 * T * C)
    expected = mask_audio(speech, RATE, mask, rows.frames_per_second, rows.mel_frequencies)
    assert np.abs(heard["keep"] - expected).max() < 1e-4 < np.abs(expected).max()
    for button in ("Hear only the most salient", "Hear without it"):
        page.get_by_role("button", name=button).click()
        wait(page, "document.getElementById('playing').textContent.includes('5 %')")
        assert page.evaluate("page.sound.audio.duration") == pytest.approx(SECONDS, abs=0.01)
        page.evaluate("page.sound.stop()")


def test_bins_of_the_lowest_value_are_not_salient(open_report):
    maps = torch.zeros_like(make().spectrogram_attr)
    maps[:, 5, 1:3] = 1
    page = open_report(replace(make(), spectrogram_attr=maps))
    assert page.evaluate("[...page.map.mostSalient(0.5)].reduce((sum, one) => sum + one, 0)") == 2


def test_without_audio(open_report):
    page = open_report(make())
    assert page.locator("audio").count() == 0 and page.locator("#no-audio").is_visible()


def test_several_methods_side_by_side(open_report, speech):
    others = [make("Saliency", 1, signed=True), make("Saliency", 2)]
    page = open_report(make(), speech, others)
    assert page.locator("figcaption strong").all_inner_texts() == ["SPES", "Saliency", "Saliency (2)"]
    page.locator("#rows [role=radio]").nth(1).click()
    readings = []
    for index, explanation in enumerate([make(), *others]):
        source = relative(explanation) if is_signed(explanation) else explanation.normalize()
        rank = float(percentile_ranks(source.spectrogram_attr[1])[70, 12])
        hover(page, 70, 12)  # over the first
        reading = page.locator("figcaption span").nth(index).inner_text()
        assert float(reading.split("above ")[1].split()[0]) == pytest.approx(rank, abs=1)
        readings.append(reading)
    assert len(set(readings)) == 3
    assert "percentile rank" in page.locator("#legend-text").inner_text()
    assert page.locator("#legend-low").inner_text() == "75"
    page.locator("#method").select_option("Saliency (2)")
    assert page.evaluate("page.method.name") == "Saliency (2)"


def test_hostile_texts_stay_texts(open_report, speech):
    explanation = make(method=HOSTILE[0], tokens=HOSTILE)
    explanation = replace(explanation, metadata=dict.fromkeys((*HOSTILE, "method", "model"), HOSTILE))
    page = open_report(explanation, speech)
    assert page.title().startswith("</script><script>alert(1)</script>")
    assert page.locator("#rows [role=radio]").first.inner_text() == HOSTILE[0]
    assert page.locator("img").count() == 1  # the words over time
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    page.locator("details").last.evaluate("(details) => (details.open = true)")
    drag(page, (5, 2), (50, 9))
    # were there a hole, the page's own policy would still refuse: an inline handler, a script, an outside picture
    assert page.evaluate(
        """() => new Promise((resolve) => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => {
                refused.push(event.effectiveDirective);
                if (refused.length === 3) resolve(refused.sort());
            });
            document.body.insertAdjacentHTML("beforeend", "<p onclick='alert(1)'>");
            document.body.append(Object.assign(document.createElement("script"), { textContent: "alert(1)" }));
            document.body.append(Object.assign(new Image(), { src: "https://example.org/a.png" }));
            document.body.lastElementChild.previousElementSibling.previousElementSibling.click();
        })"""
    ) == ["img-src", "script-src-attr", "script-src-elem"]
    page.problems[:] = [problem for problem in page.problems if "Content Security Policy" not in problem]
    page.requests[:] = [url for url in page.requests if "example.org" not in url]


def test_phones(open_report, speech):
    page = open_report(make(), speech, [make("Saliency", 1)], width=390, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#rows [role=radio]").nth(2).tap()
    assert chosen(page) == "'s"
    boxes = [page.locator(".plot").nth(index).bounding_box() for index in range(2)]
    assert boxes[0]["x"] == boxes[1]["x"]  # beneath each other


def test_in_a_notebook(browser, speech):
    """The frame is isolated from the page that holds it, and works there."""
    page = browser.new_page()
    page.set_content(f"<style>button {{ display: none }}</style>{make()._repr_html_()}")
    frame = page.frame_locator("iframe")
    frame.locator("#rows [role=radio]").nth(2).click(timeout=20000)
    assert frame.locator("#rows [aria-checked=true]").inner_text() == "'s"
    assert page.evaluate("document.querySelector('iframe').contentDocument") is None
    page.close()


def test_the_page_that_holds_it_is_told(browser):
    """Of a report in a frame; one that is a page of its own tells nothing."""
    page = browser.new_page()
    page.set_default_timeout(SLOW)
    listener = "window.told = []; addEventListener('message', ({ data }) => told.push(data.captumSpes));"
    page.set_content(f"<script>{listener}</script>{make()._repr_html_()}")
    frame = page.frame_locator("iframe")
    frame.locator("#rows [role=radio]").nth(1).click()
    frame.get_by_role("radio", name="words", exact=True).click()
    frame.locator("#rows [role=radio]").nth(1).click()
    wait(page, "told.at(-1)?.view === 'words'")
    last = page.evaluate("told.at(-1)")
    assert last["word"] == {"index": 1, "text": "what's"} and last["region"] is None and last["height"] > 500
    page.evaluate("document.querySelector('iframe').contentWindow.postMessage({ captumSpes: { chooseWord: 2 } }, '*')")
    wait(page, "told.at(-1).word.index === 2")
    assert frame.locator("#rows [aria-checked=true]").inner_text() == "next"
    page.close()


def test_widget(browser, speech):
    """The widget's own script, with a model that passes to Python what it is set to, as a notebook's does."""
    pytest.importorskip("anywidget", reason="anywidget is not installed (extra: widget)")
    view = make().widget(audio=speech, sampling_rate=RATE)
    assert (view.selected_word, view.selected_index, view.region) == (None, None, None)
    page = browser.new_page()
    page.set_default_timeout(SLOW)
    page.expose_function("setInPython", lambda values: [setattr(view, name, value) for name, value in values.items()])
    page.set_content("<main></main>")
    page.evaluate(
        """async ([script, values]) => {
            const file = new Blob([script], { type: "text/javascript" });
            const { default: widget } = await import(URL.createObjectURL(file));
            const listeners = {};
            window.model = {
                get: (name) => values[name],
                set: (changed) => Object.entries(changed).forEach(([name, value]) => {
                    if (values[name] !== value) model.change(name, value);
                }),
                save_changes: () => setInPython(values),
                on: (name, listener) => (listeners[name] = listener),
                off: (name) => delete listeners[name],
                change: (name, value) => { values[name] = value; listeners[`change:${name}`]?.(); },
                listeners,
            };
            window.again = () => widget.render({ model, el: document.querySelector("main") });
            window.cleanUp = again();
        }""",
        [view._esm, {name: getattr(view, name) for name in ("page", "height", "selected_index")}],
    )
    frame = page.frame_locator("iframe")
    frame.locator("#rows [role=radio]").nth(3).click()
    wait(page, "model.get('selected_word') === 'next'")
    assert (view.selected_word, view.selected_index) == ("next", 2)
    box = page.locator("iframe").bounding_box()
    plot = frame.locator(".plot").bounding_box()
    page.mouse.move(plot["x"] + 100, plot["y"] + 50)
    page.mouse.down()
    page.mouse.move(plot["x"] + 200, plot["y"] + 150)
    page.mouse.up()
    wait(page, "model.get('region') !== null")
    assert 0 < view.region["start"] < view.region["stop"] < SECONDS and 200 <= view.region["low"] < view.region["high"]
    assert box["height"] == view.height
    page.evaluate("model.change('selected_index', 0)")
    wait(page, "model.get('selected_word') === 'So'")
    assert view.selected_word == "So"
    frame.locator("#rows [role=radio]").nth(2).click()  # the second token of a word
    wait(page, "model.get('selected_word') === \"what's\"")
    assert frame.locator("#rows [aria-checked=true]").inner_text() == "'s"
    page.evaluate("cleanUp()")
    assert page.evaluate("Object.keys(model.listeners)") == []
    page.evaluate("model.change('selected_index', 2)")  # before it is shown again
    page.evaluate("() => { window.cleanUp = again(); }")  # not what it returns, which Playwright would call
    wait(page, "model.get('selected_word') === 'next'")
    assert page.frame_locator("iframe >> nth=-1").locator("#rows [aria-checked=true]").inner_text() == "next"
    page.close()


def test_rows_of_words_are_no_previous_tokens(open_report):
    page = open_report(make(tokens=(" So", " walk", "ing", " talk", "ing", " next")).words())
    page.locator("#rows [role=radio]").nth(3).click()
    assert chosen(page) == "next" and page.locator("#before .chip").count() == 6
    assert "“next”" in page.locator("#summary").inner_text()


def test_marking_by_keys_begins_where_the_pointer_is(open_report):
    page = open_report(make())
    plot = page.locator(".plot")
    plot.focus()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Escape")
    plot.hover(position={"x": 200, "y": 50})
    start = page.evaluate("page.bin.frame")
    page.keyboard.press("Shift+ArrowRight")
    assert page.evaluate("page.region.firstFrame") == start


def test_contrasts_and_models_without_previous_tokens(open_report):
    explanation = make()
    contrast = replace(
        explanation,
        tokens=["next (not last)"],
        spectrogram_attr=explanation.spectrogram_attr[:1],
        token_attr=explanation.token_attr[4:],
        n_previous=torch.tensor([5]),
        reliability=None,
        grouped=True,
    )
    page = open_report(contrast)
    assert page.locator("#rows [role=radio]").all_inner_texts() == ["next (not last)"]
    assert page.locator("#before .chip").count() == 5
    assert not page.locator("#views").is_visible()
    alone = replace(
        explanation, previous_tokens=[], token_attr=torch.zeros(5, 0), n_previous=torch.zeros(5, dtype=torch.long)
    )
    page = open_report(alone)
    page.locator("#rows [role=radio]").nth(1).click()
    assert "before it" not in page.locator("#summary").inner_text()
    page.get_by_text("As a table").click()
    page.locator("#table tbody tr").last.wait_for()  # it is filled a moment later
    assert page.locator("#table tbody tr").count() == 5
