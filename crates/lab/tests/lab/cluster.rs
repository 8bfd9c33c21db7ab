//! The laboratory on a running cluster.

use pixii_testkit::cluster::House;
use serde_json::Value;

#[test]
fn live_predictions_find_the_delays_that_were_emulated() {
    let mut house = House::create(3);
    house.cluster.allow_emulation().unwrap();
    house.start_all();
    let why = house.run(&["lab", "predict", "--live"]);
    assert_eq!((why.code, why.out.as_str()), (1, ""));
    assert!(why.err.starts_with("pixii: too little is known of the way from n"), "{}", why.err);
    assert_eq!(why.err.lines().count(), 1);

    let far = "n1 <-> n3 delay exponential 40ms";
    house.run(&["emulate", "set", "* -> * delay exponential 10ms", far]).done();
    let base = ["lab", "load", "--clients", "64", "--keys", "300", "--bytes", "100", "--json"];
    let times = ["--seconds", "4", "--warm-up", "1", "--repetitions", "1", "--seed", "3"];
    house.run(&[&base[..], &times].concat()).done();

    let wish = ["--fresh", "99.9", "--within", "600000", "--trials", "20000", "--json"];
    let told = house.run(&[&["lab", "predict", "--live"][..], &wish].concat());
    let told: Value = serde_json::from_str(told.done()).unwrap();
    let links = told["live"]["links"].as_array().unwrap();
    assert_eq!(links.len(), 9, "{told}");
    for link in links {
        let ends = [&link["from"], &link["to"]].map(|end| end.as_str().unwrap());
        let way = link["one_way_mean_ms"].as_f64().unwrap();
        let emulated = match ends {
            [from, to] if from == to => 0.0,
            ["n1", "n3"] | ["n3", "n1"] => 40.0,
            _ => 10.0,
        };
        // Never much less; a busy machine and its disk add to it.
        assert!((0.75 * emulated..=1.4 * emulated + 5.0).contains(&way), "{ends:?}: {link}");
        // The model puts writes together from what reads and disks take.
        let [measured, modelled] =
            ["write_mean_ms", "write_mean_by_model_ms"].map(|name| link[name].as_f64().unwrap());
        assert!((0.5..2.0).contains(&(modelled / measured)), "{ends:?}: {link}");
    }
    assert_eq!(told["meet"].as_array().unwrap().len(), 9, "all are fresh in the end");
}
