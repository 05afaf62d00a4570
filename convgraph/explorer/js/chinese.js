// The page in Chinese: what is written on it in English is looked up here, whole or by its pattern. Terms are those
// of the glossary. Nothing else of the page knows of it.

const WHOLE = {
  "A convolution is a graph": "卷积就是一张图", "over the edges q → p through tap t": "对经过抽头 t 的边 q → p 求和",
  "Copy link": "复制链接", Copied: "已复制", "Save picture": "保存图片", "Start again": "重新开始",
  "Switch between light and dark": "切换明暗", Lessons: "课程", Picture: "图", Geometry: "几何",
  "kernel size k": "核的大小 k", "kernel size k, columns": "核的大小 k，列", stride: "步长", "stride, columns": "步长，列",
  dilation: "扩张", "dilation, columns": "扩张，列", padding: "填充", "padding, columns": "填充，列",
  "▶ Walk": "▶ 走动", "❚❚ Stop": "❚❚ 停下", picture: "画法", "two grids": "两个网格", "a graph": "图",
  "input channel": "输入通道", "output channel": "输出通道", "a click on the input": "点击输入",
  "erases or restores": "擦除或恢复", "Restore erased pixels": "恢复擦掉的像素", "Undo drawing and erasing": "撤销绘画和擦除",
  "Move over the output to ask; click the input to erase or to draw. With keys: Tab, arrows, space.":
    "在输出上移动来提问；点击输入来擦除或绘画。键盘：Tab、方向键、空格。",
  "Tap the output to ask, tap the input to erase or to draw.": "轻点输出来提问，轻点输入来擦除或绘画。",
  "In words": "用文字说", "The sum": "和", "Operator and padding": "算子与填充", "Who talks to whom": "谁和谁说话",
  operator: "算子", "convolution: sum": "卷积：求和", "max pool": "最大池化", "mean pool": "平均池化",
  "ReLU behind it": "后接 ReLU", "twice in a row": "连用两次", "padding follows k": "填充随 k 变",
  "rows and columns apart": "行列分开", "padding mode": "填充方式", "transposed (arrows reversed)": "转置（箭头反向）",
  "output padding": "输出填充", "Channels and numbers": "通道与数", "What they say": "说什么",
  "input channels": "输入通道数", "output channels": "输出通道数", groups: "分组", "split: depthwise + pointwise": "拆分：逐通道 + 逐点",
  weights: "权重", image: "图像", "image size": "图像大小", "image size, columns": "图像大小，列", "a picture of yours": "你的图片",
  Kernel: "卷积核", "Adjacency matrix": "邻接矩阵", "Cost and rank": "代价与秩", "All taps": "所有抽头",
  "Undo what was typed": "撤销输入的权重", zeros: "零", reflect: "反射", replicate: "复制边界", circular: "循环",
  "random −3 … 3": "随机 −3 … 3", separable: "可分离", identity: "恒等", "sum and difference": "和与差",
  "blur (nine times)": "模糊（九倍）", sharpen: "锐化", "Sobel, right minus left": "Sobel，右减左",
  "luminance, in per cent": "亮度（百分比）", "red minus green": "红减绿", "lower minus upper": "下减上", "all ones": "全 1",
  "random 0 … 9": "随机 0 … 9", counting: "计数", "bars A": "条形 A", "bars B": "条形 B", photograph: "照片", "one bright pixel": "一个亮像素",
  "your layer": "你的层", "your image": "你的图像", colour: "彩色", "not a node": "不是节点", "click to pin": "点击固定",
  "pinned: click again or press Escape to let go": "已固定：再点一次或按 Escape 松开",
  "1 (all mix)": "1（全部混合）", tap: "抽头", pixel: "像素", "weight · value": "权重 · 值", "weight · value, by channel": "权重 · 值，按通道",
  message: "消息", "sum = output": "和 = 输出", "sum = middle": "和 = 中间", "sum = before ReLU": "和 = ReLU 之前", "largest = output": "最大 = 输出",
  "mean = output": "平均 = 输出", "largest = before ReLU": "最大 = ReLU 之前", "mean = before ReLU": "平均 = ReLU 之前", bias: "偏置",
  "ReLU: what is above 0": "ReLU：0 以上的", "no edge: outside of the image": "没有边：在图像之外",
  "no edge: this pixel is erased": "没有边：这个像素被擦掉了", "no edge: between two pixels": "没有边：在两个像素之间",
  "Adjacency, all taps": "邻接，所有抽头", "Click a tap to see it alone, and to type a weight of your own.": "点击一个抽头单独看它，并输入你自己的权重。",
  "Groups keep this input from this output: there is no weight.": "分组隔开了这个输入和这个输出：没有权重。",
  "Type a number: the output follows.": "输入一个数：输出随之改变。", edges: "边", "multiplications, whole": "乘法，完整", "multiplications, split": "乘法，拆分",
  "rank of W, C_out × C_in k²": "W 的秩，C_out × C_in k²", "rank of W[:, c, :] by input channel": "各输入通道 W[:, c, :] 的秩", "rank of the split layer": "拆分层的秩",
  "Every input channel speaks with one shape: a split layer can be this kernel exactly.": "每个输入通道只用一种形状说话：拆分的层可以恰好是这个核。",
  "Some input channel speaks with more than one shape: no split layer is this kernel.": "有的输入通道用不止一种形状说话：没有拆分的层是这个核。",
  "The split shown is this kernel, taken apart.": "显示的拆分就是拆开的这个核。",
  "The split shown keeps output 0's shapes and mixes them with numbers of its own.": "显示的拆分保留第一个输出的形状，用自己的数混合。",
  "A and B give the same map. This channel cannot tell them apart.": "A 和 B 给出同一张图。这个通道分不开它们。",
  "small: a pixel that speaks; ring: an output that hears": "小圆：说话的像素；圆环：听的输出",
  "Your own experiment.": "你自己的实验。", "Your layer on your image. Move over an output pixel.": "你的层在你的图像上。在输出像素上移动。",
  "pixels lie": "像素位于", "in the plane": "平面上", "on hexagons": "六边形网格上", "on a torus": "环面上", Hexagons: "六边形", Torus: "环面",
  "no neighbour in this space": "这个空间里不是邻居", "In this space the kernel has no such neighbour.": "在这个空间里，核没有这个邻居。",
  Messages: "消息", "As a graph": "画成图", "Bars A and B": "条形 A 和 B", "A photograph": "一张照片", "Pools and ReLU": "池化与 ReLU", "Two layers": "两层",
  "Split in two": "一分为二", Stride: "步长", Padding: "填充", Transposed: "转置", Holes: "空洞", Groups: "分组",
  "the file is no picture that this browser reads": "浏览器读不了这个图片文件",
};

const SAY = {
  messages: "在输出像素上移动。每条彩色的线是一条边：一个像素通过卷积核的一个抽头说话。消息加起来就是那个数。",
  graph: "同一层画成节点和边。每个像素是一个节点；一个节点的箭头完整画出，环是像素在听自己。把核缩到 1，就只剩下环。",
  pointwise: "把核缩到一个抽头，只剩自环：每个像素听自己，混合自己的通道，看不见邻居。",
  bars: "A 的通道 1 有竖条，通道 2 有横条；B 相反。输出 1 是两个通道的和，输出 2 是差。交换条形：哪一个注意到了？",
  photo: "三个通道：红、绿、蓝。选一个核（模糊、锐化、Sobel），或者 k = 1 加亮度或红减绿。一个抽头的核不能模糊、锐化，也找不到轮廓。",
  pool: "池化有卷积的边，没有权重：取最大的消息，或者平均。ReLU 谁也不听：它保留 0 以上的。",
  hops: "同一层用两次。输出像素听到中间的九个像素，并通过它们听到输入的 25 个，两跳之外。k = 1 时无论多少层都只听到一个。",
  split: "逐通道：像素之间的消息，各通道管各的。逐点：混合通道的自环。合起来乘法少得多，能有的核也少。",
  stride: "步长 2 时只有隔一个的位置在听：图的目标比来源少。",
  fold: "零填充就是没有那条边。反射、复制和循环填充把来源折回图像：在角上比较这几种方式。",
  hexagon: "六边形像素：3 x 3 的核有六个邻居和它自己。在倾斜的行里，六边形网格就是方格网，只是核少了两个角；其余都和原来一样。",
  torus: "在环面上，最后一行在第一行之上，右边挨着左边：没有像素在边界上，每个都听到九个。看一个角。",
  transposed: "转置卷积有同样的边，箭头反向，所以步长让输出变大。",
  holes: "点击或涂抹输入像素来擦掉它们。擦掉的像素不是节点：它的边消失，它的输出也消失。",
  walls: "分组是通道之间的墙：边还在，边上的数少了一半。",
};

const AT = "(\\([−\\d]+, [−\\d]+\\))";
const PATTERNS = [
  [/^input x, channel (\d+)$/, "输入 x，通道 $1"], [/^input x, all channels$/, "输入 x，所有通道"], [/^output y, channel (\d+)$/, "输出 y，通道 $1"],
  [/^after depthwise, channel (\d+)$/, "逐通道之后，通道 $1"], [/^after one layer, channel (\d+)$/, "一层之后，通道 $1"],
  [/^draws (−?-?\d+)$/, "画 $1"], [/^(\d+) \(depthwise\)$/, "$1（逐通道）"],
  [/^(y\[.*?\]) in channel (\d+): (\d+) edges?$/, "$1，通道 $2：$3 条边"], [/^(y\[.*?\]) in channel (\d+) is no node: nothing is computed there\.$/, "$1，通道 $2，不是节点：那里什么也不算。"],
  [/^1\. Depthwise: middle pixel, channel (\d+)$/, "1. 逐通道：中间像素，通道 $1"], [/^2\. Pointwise: (.*) in channel (\d+), one self-loop$/, "2. 逐点：$1，通道 $2，一个自环"],
  [/^Kernel: input (\d+) → output (\d+)$/, "卷积核：输入 $1 → 输出 $2"], [/^Depthwise kernel of channel (\d+)$/, "通道 $1 的逐通道核"],
  [/^Adjacency of tap (\d+)$/, "抽头 $1 的邻接"], [/^weight of tap (\d+)$/, "抽头 $1 的权重"], [/^ for (.*)$/, " 代替 $1"],
  [/^(\d+) edges?, all on the diagonal: self-loops only\.$/, "$1 条边，全在对角线上：只有自环。"],
  [/^(\d+) edges?\. Row p hears column q; the shaded row is the output you look at\.$/, "$1 条边。第 p 行听第 q 列；有底色的行是你在看的输出。"],
  [/^Split costs (.*) of the whole here; the rule 1\/C_out \+ 1\/(k²|\d+) says (.*)\.$/, "这里拆分的代价是完整的 $1；规则 1/C_out + 1/$2 说是 $3。"],
  [/^Split costs (.*) of the whole here; groups make the whole cheaper already\.$/, "这里拆分的代价是完整的 $1；分组已经让完整的更便宜。"],
  [/^(\d+) of at most (\d+)$/, "$1，至多 $2"], [/^(\d+) edges? and no weights: a pool multiplies nothing\.$/, "$1 条边，没有权重：池化什么也不乘。"],
  [/^output (\d+): $/, "输出 $1："], [/^A and B differ at (\d+) of (\d+) pixels\. This channel tells them apart\.$/, "A 和 B 在 $2 个像素中的 $1 个上不同。这个通道分得开它们。"],
  [/^Swap the bars: now (.), show (.)$/, "交换条形：现在是 $1，显示 $2"], [/^Not possible: (.*)\.$/, "做不到：$1。"],
  [/^(\d+) groups must divide.*$/, "$1 组必须整除通道数"], [/^The split shown is this kernel, taken apart; .*$/, "显示的拆分就是拆开的这个核；逐通道阶段另加自己的偏置。"],
  [/^Taps of the kernel, (\d+) by (\d+)$/, "卷积核的抽头，$1 乘 $2"], [/^tap (\d+), row (\d+), column (\d+): weight (.*), choose it$/, "抽头 $1，行 $2，列 $3：权重 $4，选择它"],
  [/^tap (\d+), row (\d+), column (\d+): no weight, another group, choose it$/, "抽头 $1，行 $2，列 $3：没有权重，另一组，选择它"],
  [/^tap (\d+), row (\d+), column (\d+): no neighbour in this space, choose it$/, "抽头 $1，行 $2，列 $3：这个空间里不是邻居，选择它"],
  [/^tap (\d+): listens (.*) from the centre(?:, weight (.*))?$/, "抽头 $1：听离中心 $2 的像素"], [/^channel (\d+): (.*)$/, "通道 $1：$2"],
  [/^Adjacency matrix of (?:all \d+ taps|tap (\d+)): (\d+) edges?, (\d+) rows \(outputs\), (\d+) columns \(inputs\)$/, "邻接矩阵：$2 条边，$3 行（输出），$4 列（输入）"],
  [/^(Input|Output), (\d+) by (\d+) pixels\..*$/, (_, which, h, w) => `${which === "Input" ? "输入" : "输出"}，${h} 乘 ${w} 像素。用方向键移动。`],
  [/^Input row (\d+), column (\d+): (present|erased)\.$/, (_, r, c, how) => `输入 行 ${r}，列 ${c}：${how === "present" ? "在" : "已擦掉"}。`],
  [/^Output row (\d+), column (\d+), channel (\d+)/, "输出 行 $1，列 $2，通道 $3"],
];

// What is left of a longer sentence, piece by piece.
const PIECES = [
  [/ is no node: it is not computed\./, " 不是节点：不计算它。"], [/ hears itself once, through all (\d+) channels of the middle\./, " 通过中间的 $1 个通道听自己一次。"],
  [/ There, channel (\d+) hears/, " 在那里，通道 $1 听到"], [/ hears no edge\./, " 没有听到边。"], [/ hears (\d+) edges?: /, " 听到 $1 条边："], [/听到 (\d+) edges?: /, "听到 $1 条边："],
  [new RegExp(`tap (\\d+) from ${AT} says`, "g"), "抽头 $1 从 $2 说"], [/and (\d+) more in the table/, "表中还有 $1 条"],
  [/ Through them it hears (\d+) pixels? of the input, two hops away\./, " 通过它们听到输入的 $1 个像素，两跳之外。"],
  [/ The value is/, " 值是"], [/ The sum is/, " 和是"], [/ With the bias (\S+) the sum is/, " 加上偏置 $1，和是"], [/ The largest is/, " 最大的是"], [/ The mean is/, " 平均是"],
  [/ After the ReLU the value is/, " 经过 ReLU 之后的值是"],
];

function chinese(text, lessons) {
  const bare = text.trim();
  if (!/[A-Za-z]/.test(bare)) return text;
  if (Object.hasOwn(WHOLE, bare)) return text.replace(bare, () => WHOLE[bare]);
  for (const [name, { say }] of Object.entries(lessons)) if (say === bare) return SAY[name];
  let found = text;
  for (const [pattern, into] of PATTERNS) {
    if (pattern.test(found)) { found = found.replace(pattern, into); break; }
  }
  if (found !== text && /[A-Za-z]{3}/.test(found)) for (const [pattern, into] of PIECES) found = found.replace(pattern, into);
  return found;
}

// Keep an explorer in Chinese, whatever is written into it.
export function speakChinese(root, lessons) {
  const attributes = ["aria-label", "title", "aria-valuetext"];
  const said = (node) => {
    const text = chinese(node.data, lessons);
    if (text !== node.data) node.data = text;
  };
  const named = (element) => {
    for (const name of attributes) {
      const text = element.getAttribute(name);
      const other = text && chinese(text, lessons);
      if (other && other !== text) element.setAttribute(name, other);
    }
  };
  const all = (node) => {
    if (node.nodeType === Node.TEXT_NODE) { said(node); return; }
    if (node.nodeType !== Node.ELEMENT_NODE) return;
    named(node);
    node.childNodes.forEach(all);
  };
  all(root);
  const watch = new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes) {
      if (type === "attributes") named(target);
      else if (type === "characterData") said(target);
      else addedNodes.forEach(all);
    }
  });
  watch.observe(root, { childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: attributes });
  return () => watch.disconnect();
}
