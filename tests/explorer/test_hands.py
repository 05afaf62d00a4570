"""What hands do: erase by dragging, restore, pin, type a weight, pull rows and columns apart."""

import torch
import torch.nn.functional as F

import convgraph as cg
from tests.explorer.agreement import COMPUTE

STATE = "convgraphExplorer.view.state"


def test_dragging_erases_and_dragging_back_restores(show) -> None:
    tab = show()
    cell = "[data-lattice=input] rect[data-p='{}']"

    def drag() -> list[bool]:
        for p in (0, 1, 2):
            box = tab.locator(cell.format(p)).bounding_box()
            tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            if p == 0:
                tab.mouse.down()
        tab.mouse.up()
        tab.hover(cell.format(9))  # the button is up: nothing more is painted
        return tab.evaluate(f"{STATE}.mask")

    assert tab.is_hidden("text=Restore erased pixels")
    assert drag() == [False] * 3 + [True] * 61
    assert drag() == [True] * 64
    drag()
    tab.click("text=Restore erased pixels")
    assert tab.evaluate(f"{STATE}.mask") is None
    assert tab.get_attribute("canvas", "data-edges") == "484"


def test_a_pinned_pixel_stays_until_it_is_let_go(show) -> None:
    tab = show()
    cell = "[data-lattice=output] rect[data-p='{}']"
    pixel = f"{STATE}.pixel"
    tab.click(cell.format(10))
    tab.hover(cell.format(30))
    assert tab.evaluate(pixel) == [1, 2]
    assert "pinned" in tab.inner_text(".cge-big")
    tab.click(cell.format(10))
    tab.hover(cell.format(30))
    assert tab.evaluate(pixel) == [3, 6]
    tab.click(cell.format(30))
    tab.focus("[data-lattice=output]")
    tab.keyboard.press("Escape")
    tab.hover(cell.format(10))
    assert tab.evaluate(pixel) == [1, 2]


def test_the_button_turns_the_light_on_and_off(show) -> None:
    tab = show(color_scheme="dark")
    shade = "getComputedStyle(document.body).backgroundColor"
    first = tab.evaluate(shade)
    tab.click("[aria-label='Switch between light and dark']")
    second = tab.evaluate(shade)
    tab.click("[aria-label='Switch between light and dark']")
    assert first != second
    assert tab.evaluate(shade) == first


def test_a_typed_weight_is_the_weight(show) -> None:
    conv = torch.nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    image = torch.arange(32.0, dtype=torch.float64).reshape(2, 4, 4)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) - 7)
    tab = show(conv, image)
    tab.select_option("[data-control=channel]", index=2)
    tab.select_option("[data-control=view]", index=1)
    tab.click(".cge-tile[data-tap='5']")
    assert tab.input_value("[data-control=weight]") == str(int(conv.weight[2, 1, 1, 2]))
    tab.keyboard.type("-12.5")  # on the tile itself: the field takes it
    with torch.no_grad():
        conv.weight[2, 1, 1, 2] = -12.5
    assert tab.inner_text(".cge-tile[data-tap='5']").endswith("\u221212.5")
    assert tab.evaluate(COMPUTE)["output"] == conv(image).flatten().tolist()
    assert tab.input_value("[data-control=weight]") == "-12.5"
    # The kernel that shrinks and grows again has it still.
    for k in ("1", "3"):
        tab.fill("[data-control=kernel]", k)
        tab.fill("[data-control=padding]", str(int(k) // 2))
    assert tab.evaluate(COMPUTE)["output"] == conv(image).flatten().tolist()
    tab.click("text=Undo what was typed")
    assert tab.evaluate("convgraphExplorer.view.config.weight[50]") == 50 - 7


def test_a_weight_typed_into_a_split_layer_reaches_both_stages(show) -> None:
    tab = show()
    tab.click("[data-lesson=split]")
    tab.click(".cge-tile[data-tap='1']")
    tab.fill("[data-control=weight]", "11")
    same = tab.evaluate(
        "() => { const { view, compute, stages } = convgraphExplorer, c = view.config;"
        "const whole = compute(c).output, split = stages(c, view.state.parts).last.output;"
        "return [whole.join() === split.join(), view.state.parts.depthwise[1]]; }"
    )
    assert same == [True, 11]
    assert "is this kernel, taken apart" in tab.inner_text(".cge-facts")
    assert "11·" in tab.inner_text(".cge-ledger tr[data-tap='1']")


def test_rows_and_columns_apart(show) -> None:
    tab = show()
    assert tab.is_hidden("[data-control=kernel-columns]")
    tab.check("[data-control=apart]")
    tab.fill("[data-control=kernel]", "1")
    tab.fill("[data-control=stride-columns]", "2")
    tab.fill("[data-control=size]", "5")
    config = tab.evaluate("convgraphExplorer.view.config")
    assert (config["kernel_size"], config["stride"], config["size"]) == ([1, 3], [1, 2], [5, 8])
    weight = torch.tensor(config["weight"], dtype=torch.float64).reshape(1, 1, 1, 3)
    image = torch.tensor(config["image"], dtype=torch.float64).reshape(1, 5, 8)
    dense = F.conv2d(image, weight, stride=(1, 2), padding=(0, 1))
    assert tab.evaluate(COMPUTE)["output"] == dense.flatten().tolist()
    tab.uncheck("[data-control=apart]")
    assert tab.evaluate("convgraphExplorer.view.config.kernel_size") == [1, 1]


def test_a_split_layer_from_python_is_torch_at_every_pixel(show) -> None:
    draw = torch.Generator().manual_seed(3)
    layer = cg.nn.DepthwiseSeparableConv(
        3, 4, (3, 2), stride=(1, 2), padding=1, dtype=torch.float64
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-9, 10, parameter.shape, generator=draw))
        mask = torch.rand((1, 5, 6), generator=draw) > 0.3
        image = torch.randint(-9, 10, (1, 3, 5, 6), generator=draw).double()
        graph = cg.PixelGraph.from_image(image, mask=mask)
        out = layer(graph)
    # Sites that are not nodes show no number; the others show torch's.
    dense = out.to_image(fill=torch.nan)[0]
    tab = show(layer, graph)
    width = dense.shape[2]
    seen = 0
    for channel in range(4):
        tab.select_option("[data-control=channel]", index=channel)
        tab.focus("[data-lattice=output]")
        for p, expected in enumerate(dense[channel].flatten().tolist()):
            tab.hover(f"[data-lattice=output] rect[data-p='{p}']")
            assert tab.evaluate(f"{STATE}.pixel") == [p // width, p % width]
            said = tab.get_attribute("[data-y]", "data-y")
            assert said == "" if expected != expected else float(said) == expected
            seen += said != ""
            if said:
                totals = tab.locator(".cge-total [data-value]").all()
                assert float(totals[-1].get_attribute("data-value")) == expected
    assert seen == out.num_nodes * 4
