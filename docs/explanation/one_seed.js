// Studies of two methods that do not differ, drawn and tested in three ways: the toy of one-seed.md.
//
// The values of an arm are y[seed][image]: 0.9 + what the image is for both arms + what it is for this arm + the seed's
// luck + what remains, all normal. The interval of seeds and images is that of src/runcard/stats/mrmc.py, and
// tests/docs/test_one_seed.py holds the two against each other. benchmarks/inference.py draws the same values.
"use strict";

const ALPHA = 0.05;
const IMAGE_SD = 0.04; // of an image, in both arms alike
const RESIDUAL_SD = 0.015; // of one value
const RESAMPLES = 500; // of the bootstrap

// A generator of normal numbers: mulberry32, then Box and Muller.
function generator(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = (sd) => sd * Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}

// Two arms of the same images, without a difference.
function drawStudy(random, { seedSd, imageSd, seeds, images }) {
  const shared = Array.from({ length: images }, () => random.normal(IMAGE_SD));
  return [0, 1].map(() => {
    const ofArm = shared.map((value) => 0.9 + value + random.normal(imageSd));
    return Array.from({ length: seeds }, () => {
      const luck = random.normal(seedSd);
      return ofArm.map((value) => value + luck + random.normal(RESIDUAL_SD));
    });
  });
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function variance(values) {
  const centre = mean(values);
  return values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1);
}

const overSeeds = (y) => y[0].map((_, image) => mean(y.map((run) => run[image])));

// The difference of two arms, and half of its interval for other seeds and other images: the wider one of the crossed
// analysis (Obuchowski and Rockette 1995) and of Welch's t on the run means.
function twoSources(a, b) {
  const images = a[0].length;
  const first = overSeeds(a);
  const second = overSeeds(b);
  const differences = first.map((value, image) => value - second[image]);
  const ofImages = variance(differences) / images;
  const runParts = [];
  const overlapParts = [];
  for (const [y, average] of [[a, first], [b, second]]) {
    const runMeans = y.map(mean);
    const whole = mean(runMeans);
    let residual = 0;
    y.forEach((run, seed) => run.forEach((value, image) => {
      residual += (value - runMeans[seed] - average[image] + whole) ** 2;
    }));
    const freedom = (y.length - 1) * (images - 1);
    runParts.push([variance(runMeans) / y.length, y.length - 1]);
    overlapParts.push([residual / freedom / (y.length * images), freedom]);
  }
  const ofRuns = runParts[0][0] + runParts[1][0];
  const overlap = overlapParts[0][0] + overlapParts[1][0];
  const whole = Math.max(ofRuns + ofImages - overlap, ofRuns, ofImages);
  const crossed = halfWidth(whole, [[ofImages, images - 1], ...runParts, ...overlapParts]);
  return { estimate: mean(differences), half: Math.max(crossed, halfWidth(ofRuns, runParts)) };
}

// Student's paired t over the images, of the arms' means over seeds: as if other seeds could not differ.
function pairedT(a, b) {
  const second = overSeeds(b);
  const differences = overSeeds(a).map((value, image) => value - second[image]);
  const ofImages = variance(differences) / differences.length;
  return { estimate: mean(differences), half: halfWidth(ofImages, [[ofImages, differences.length - 1]]) };
}

// The percentile interval of one seed of each arm, with the images drawn anew.
function bootstrapOneSeed(a, b, random) {
  const differences = a[0].map((value, image) => value - b[0][image]);
  const number = differences.length;
  const means = Array.from({ length: RESAMPLES }, () => {
    let sum = 0;
    for (let i = 0; i < number; i++) sum += differences[Math.floor(random.uniform() * number)];
    return sum / number;
  }).sort((x, y) => x - y);
  const at = (share) => means[Math.round(share * (RESAMPLES - 1))];
  return { estimate: mean(differences), low: at(ALPHA / 2), high: at(1 - ALPHA / 2) };
}

// Half of an interval from a variance and its parts, each with its degrees of freedom (Satterthwaite 1946).
function halfWidth(whole, parts) {
  if (whole === 0) return 0;
  const spread = parts.reduce((sum, [part, freedom]) => sum + part ** 2 / freedom, 0);
  const freedom = Math.max(whole ** 2 / spread, Math.min(...parts.map((each) => each[1])));
  return quantileOfT(freedom) * Math.sqrt(whole);
}

// The t that is exceeded in either direction with probability ALPHA, by bisection.
function quantileOfT(freedom) {
  let low = 0;
  let high = 1000;
  for (let i = 0; i < 60; i++) {
    const t = (low + high) / 2;
    if (incompleteBeta(freedom / (freedom + t * t), freedom / 2, 0.5) > ALPHA) low = t;
    else high = t;
  }
  return (low + high) / 2;
}

function logGamma(x) { // Lanczos
  const factors = [76.18009172947146, -86.50532032941677, 24.01409824083091, -1.231739572450155,
    0.1208650973866179e-2, -0.5395239384953e-5];
  const shifted = x + 5.5 - (x + 0.5) * Math.log(x + 5.5);
  const series = factors.reduce((sum, factor, i) => sum + factor / (x + 1 + i), 1.000000000190015);
  return Math.log((2.5066282746310005 * series) / x) - shifted;
}

// The regularized incomplete beta function, by its continued fraction (Lentz).
function incompleteBeta(x, a, b) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(1 - x)) / a;
  const guarded = (value) => (Math.abs(value) < 1e-300 ? 1e-300 : value);
  let c = 1;
  let d = 1 / guarded(1 - ((a + b) * x) / (a + 1));
  let fraction = d;
  for (let m = 1; m < 300; m++) {
    for (const term of [
      (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m)),
      (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1)),
    ]) {
      d = 1 / guarded(1 + term * d);
      c = guarded(1 + term / c);
      fraction *= c * d;
    }
    if (Math.abs(c * d - 1) < 1e-14) break;
  }
  return front * fraction;
}

const METHODS = [
  ["One seed, bootstrap over images", (a, b, random) => bootstrapOneSeed(a, b, random)],
  ["All seeds, paired t over images", pairedT],
  ["Seeds and images: Runcard", twoSources],
];

function ends({ estimate, half, low, high }) {
  return half === undefined ? { estimate, low, high } : { estimate, low: estimate - half, high: estimate + half };
}

// The intervals of each method in one study.
function testStudy(random, setting) {
  const [a, b] = drawStudy(random, setting);
  return METHODS.map(([, interval]) => ends(interval(a, b, random)));
}

const declaresWinner = ({ low, high }) => low > 0 || high < 0;

if (typeof module !== "undefined") {
  module.exports = { generator, testStudy, declaresWinner, twoSources, pairedT, quantileOfT };
}

// The page: sliders, three plots of the last studies, and how many of all declared a winner.
const SLIDERS = [
  ["seedSd", "scatter from seed to seed (sd)", 0, 0.03, 0.001, 0.012],
  ["imageSd", "scatter of an image with one method (sd)", 0, 0.04, 0.001, 0.01],
  ["seeds", "seeds of each method", 2, 10, 1, 3],
  ["images", "images", 6, 200, 1, 47],
];
const STUDIES = 1000;
const SHOWN = 40;
const PER_FRAME = 20;
const RANGE = 0.08; // of the plots, on either side of 0

function plot(intervals) {
  const x = (value) => 150 + (Math.max(-RANGE, Math.min(RANGE, value)) / RANGE) * 145;
  const rows = intervals.map((each, row) => {
    const y = 6 + 5.5 * row;
    const kind = declaresWinner(each) ? "winner" : "open";
    return `<line class="${kind}" x1="${x(each.low)}" x2="${x(each.high)}" y1="${y}" y2="${y}"/>`
      + `<circle class="${kind}" cx="${x(each.estimate)}" cy="${y}" r="2"/>`;
  });
  const bottom = 6 + 5.5 * SHOWN;
  const label = (value, text) => `<text x="${x(value)}" y="${bottom + 14}" text-anchor="middle">${text}</text>`;
  return `<svg viewBox="0 0 300 ${bottom + 20}" aria-hidden="true"><line class="zero" x1="150" x2="150" y1="0" y2="${bottom}"/>`
    + `${rows.join("")}${label(-0.05, "−0.05")}${label(0, "0")}${label(0.05, "+0.05")}</svg>`;
}

function start(element) {
  element.innerHTML = `<form>${SLIDERS.map(([key, name, low, high, step, value]) =>
    `<label>${name} <output name="${key}Value">${value}</output>
      <input type="range" name="${key}" min="${low}" max="${high}" step="${step}" value="${value}"></label>`).join("")}
    </form><div class="methods">${METHODS.map(([name]) =>
      `<section><p><strong>${name}</strong></p><p class="share"></p><div></div></section>`).join("")}</div>`;
  const form = element.querySelector("form");
  const sections = [...element.querySelectorAll("section")];
  let run = 0;

  function restart() {
    const setting = {};
    for (const [key] of SLIDERS) {
      setting[key] = Number(form.elements[key].value);
      form.elements[`${key}Value`].value = form.elements[key].value;
    }
    const current = ++run;
    const random = generator(1);
    const winners = METHODS.map(() => 0);
    const shown = METHODS.map(() => []);
    let studies = 0;

    function frame() {
      if (current !== run) return;
      for (let i = 0; i < PER_FRAME && studies < STUDIES; i++, studies++) {
        testStudy(random, setting).forEach((interval, method) => {
          winners[method] += declaresWinner(interval);
          if (studies < SHOWN) shown[method].push(interval);
        });
      }
      sections.forEach((section, method) => {
        const share = ((100 * winners[method]) / studies).toFixed(1);
        section.querySelector(".share").innerHTML =
          `<strong>${share} %</strong> of ${studies.toLocaleString("en")} studies declare a winner`;
        if (studies <= SHOWN) section.querySelector("div").innerHTML = plot(shown[method]);
      });
      if (studies < STUDIES) requestAnimationFrame(frame);
    }
    frame();
  }
  form.addEventListener("input", restart);
  restart();
}

if (typeof document !== "undefined") start(document.getElementById("one-seed"));
